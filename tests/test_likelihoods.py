import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, gammaln, log_softmax, softmax

from aejax.losses.likelihoods import LIKELIHOODS, bernoulli, categorical, gaussian, squared_error
from aejax.pairs.example import proportions

RNG = np.random.default_rng(0)
T, R = RNG.random((4, 3, 2, 1)), RNG.standard_normal((4, 3, 2, 1))


def test_squared_error_equals_numpy():
    expected = ((T - R) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(squared_error(jnp.asarray(T), jnp.asarray(R)), expected, rtol=1e-5)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 3.0])
def test_gaussian_equals_scipy(sigma):
    expected = -stats.norm.logpdf(T, R, sigma).sum((1, 2, 3))
    np.testing.assert_allclose(gaussian(jnp.asarray(T), jnp.asarray(R), sigma=sigma), expected, rtol=1e-5)


@pytest.mark.parametrize("target", [T, (T > 0.5).astype(float)], ids=["grey", "binary"])
def test_bernoulli_equals_numpy(target):
    s = expit(R)
    expected = -(target * np.log(s) + (1 - target) * np.log(1 - s)).sum((1, 2, 3))
    np.testing.assert_allclose(bernoulli(jnp.asarray(target), jnp.asarray(R)), expected, rtol=1e-5)


@pytest.mark.parametrize("logit", [-1e4, -200.0, 0.0, 200.0, 1e4])
@pytest.mark.parametrize("target", [0.0, 0.25, 1.0])
def test_bernoulli_at_extreme_logits(logit, target):
    def f(r):
        return bernoulli(jnp.full((1, 1), target), r.reshape(1, 1))[0]

    expected = np.logaddexp(0, logit) - target * logit
    np.testing.assert_allclose(f(jnp.asarray(logit)), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(jax.grad(f)(jnp.asarray(logit)), expit(logit) - target, rtol=1e-6, atol=1e-6)


def test_categorical_equals_scipy():
    counts, r = RNG.integers(0, 5, (4, 6)).astype(float), RNG.standard_normal((4, 6))
    counts[2] = 0  # a document without words
    p = softmax(r, axis=1)
    # The multinomial's coefficient is not part of it.
    n = counts.sum(1)
    coefficient = gammaln(n + 1) - gammaln(counts + 1).sum(1)
    expected = [-stats.multinomial.logpmf(c, int(k), q) for c, k, q in zip(counts, n, p, strict=True)] + coefficient
    np.testing.assert_allclose(categorical(jnp.asarray(counts), jnp.asarray(r)), expected, rtol=1e-5, atol=1e-6)
    # N times the cross-entropy of the proportions.
    q = proportions(jnp.asarray(counts))
    np.testing.assert_allclose(q.sum(1), [1, 1, 0, 1], rtol=1e-6)
    entropy = np.array(
        [stats.entropy(a) + stats.entropy(a, b) if a.sum() else 0 for a, b in zip(np.array(q), p, strict=True)]
    )
    np.testing.assert_allclose(expected, n * entropy, rtol=1e-5, atol=1e-6)


def test_categorical_equals_its_definition():
    rng = np.random.default_rng(0)
    t, r = rng.integers(0, 4, (3, 5)).astype(np.float64), rng.standard_normal((3, 5))
    expected = -(t * log_softmax(r, axis=-1)).sum(-1)
    found = categorical(jnp.asarray(t, jnp.float32), jnp.asarray(r, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_categorical_at_extreme_logits():
    r = jnp.asarray([[1e4, -1e4, 0.0]])
    np.testing.assert_allclose(categorical(jnp.asarray([[1.0, 0.0, 0.0]]), r), [0], atol=1e-6)
    np.testing.assert_allclose(categorical(jnp.asarray([[0.0, 2.0, 0.0]]), r), [4e4], rtol=1e-6)


@pytest.mark.parametrize("name", ["squared_error", "gaussian", "bernoulli", "categorical"])
def test_gradient_equals_finite_differences(name):
    with jax.enable_x64(True):
        direction = jnp.asarray(RNG.standard_normal(R.shape))

        def f(eps):
            return LIKELIHOODS[name].term(jnp.asarray(T), jnp.asarray(R) + eps * direction, sigma=0.7).sum()

        numeric = (f(1e-5) - f(-1e-5)) / 2e-5
        np.testing.assert_allclose(jax.grad(f)(0.0), numeric, rtol=1e-8)


def test_gradient_of_sigma_equals_finite_differences():
    with jax.enable_x64(True):

        def f(sigma):
            return gaussian(jnp.asarray(T), jnp.asarray(R), sigma=sigma).sum()

        np.testing.assert_allclose(jax.grad(f)(0.7), (f(0.7 + 1e-5) - f(0.7 - 1e-5)) / 2e-5, rtol=1e-8)


@pytest.mark.parametrize("term", [squared_error, gaussian, bernoulli])
def test_weight_multiplies_each_entry(term):
    weight = np.zeros(T.shape)
    weight[:, 0] = 2.0
    found = term(jnp.asarray(T), jnp.asarray(R), jnp.asarray(weight))
    np.testing.assert_allclose(found, 2 * term(jnp.asarray(T[:, :1]), jnp.asarray(R[:, :1])), rtol=1e-5)
    ones = term(jnp.asarray(T), jnp.asarray(R), jnp.ones((4, 1, 1, 1)))
    np.testing.assert_allclose(ones, term(jnp.asarray(T), jnp.asarray(R)), rtol=1e-6)


def test_means_are_on_the_scale_of_the_data():
    r = jnp.asarray([[-1.0, 0.0, 2.0]])
    np.testing.assert_allclose(LIKELIHOODS["bernoulli"].mean(r), expit(np.asarray(r)), rtol=1e-6)
    np.testing.assert_array_equal(LIKELIHOODS["gaussian"].mean(r), r)


def test_only_densities_have_an_elbo():
    assert [name for name, likelihood in LIKELIHOODS.items() if not likelihood.density] == ["squared_error"]
