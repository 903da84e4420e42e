import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from aejax.losses import Forward, penalties
from aejax.models import Code, Context
from aejax.pairs import example

RNG = np.random.default_rng(0)
MEAN, LOGVAR = RNG.standard_normal((2, 3, 4))


def forward(mean, logvar):
    code = Code(mean, mean, {"mean": mean, "logvar": logvar}, (), Context(), {})
    return Forward(lambda x: code, example(mean, mean), code, {}, jax.random.key(0), jnp.zeros(()))


def kl(mean, logvar):
    return penalties.kl(forward(mean, logvar))


def test_kl_is_zero_at_the_prior():
    np.testing.assert_array_equal(kl(jnp.zeros((2, 3)), jnp.zeros((2, 3))), np.zeros(2))


def test_kl_equals_monte_carlo():
    deviation = np.exp(LOGVAR / 2)
    z = MEAN + deviation * RNG.standard_normal((200_000, *MEAN.shape))
    draws = (stats.norm.logpdf(z, MEAN, deviation) - stats.norm.logpdf(z)).sum(-1)
    error = draws.std(0) / np.sqrt(len(draws))
    assert (np.abs(np.asarray(kl(jnp.asarray(MEAN), jnp.asarray(LOGVAR))) - draws.mean(0)) < 4 * error).all()


def test_kl_gradient_equals_finite_differences():
    with jax.enable_x64(True):
        mean, logvar = jnp.asarray(MEAN), jnp.asarray(LOGVAR)
        a, b = jnp.asarray(RNG.standard_normal((2, *MEAN.shape)))

        def f(eps):
            return kl(mean + eps * a, logvar + eps * b).sum()

        np.testing.assert_allclose(jax.grad(f)(0.0), (f(1e-5) - f(-1e-5)) / 2e-5, rtol=1e-8)
