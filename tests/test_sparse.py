"""Sparsity: penalties against NumPy, the top-k code against sorting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from aejax import config as config_lib
from aejax.errors import InputError
from aejax.losses import Forward, penalties, units
from aejax.models import Code, Context
from aejax.models.bottlenecks import TopK, largest
from aejax.pairs import example
from aejax.uses.probe import measure as probe
from common import change, check, one_line

floats = npst.arrays(
    np.float32, (4, 11), elements=st.floats(-100, 100, width=32, allow_subnormal=False)
)  # which XLA takes as 0
jitted = jax.jit(largest)


def forward(h, hidden=(), mask=None, params=None):
    h = jnp.asarray(h)
    code = Code(h, h, {}, tuple(map(jnp.asarray, hidden)), Context(), {})
    return Forward(lambda x: code, example(h, h), code, params, jax.random.key(0), jnp.zeros((), jnp.int32), mask)


@given(floats, st.integers(1, 11))
@settings(deadline=None, max_examples=60)
def test_largest_is_what_sorting_gives(h, k):
    threshold = np.sort(h, axis=1)[:, ::-1][:, k - 1 : k]
    np.testing.assert_array_equal(jitted(h, k), h >= threshold)


def test_top_k_anneals_in_one_compilation():
    h = jax.random.normal(jax.random.key(0), (3, 20))
    traces = []

    @jax.jit
    def apply(h, step):
        traces.append(1)
        return TopK(size=20, k=4, begin=10, steps=6, test=7).apply({}, h, step=step).z

    kept = [int((apply(h, jnp.asarray(step)) != 0).sum(1)[0]) for step in (0, 3, 6, 100)]
    assert kept == [10, 7, 4, 4]
    assert len(traces) == 1
    z = TopK(size=20, k=4, begin=10, steps=6, test=7).apply({}, h).z
    assert (np.asarray(z != 0).sum(1) == 7).all()
    np.testing.assert_array_equal(z, np.where(np.asarray(z) != 0, h, 0))


def test_top_k_passes_gradients_to_the_kept_only():
    h = jnp.array([[3.0, -1.0, 2.0, 0.5]])
    model = TopK(size=4, k=2, begin=2, steps=0, test=2)
    gradient = jax.grad(lambda h: model.apply({}, h).z.sum())(h)
    np.testing.assert_array_equal(gradient, [[1, 0, 1, 0]])


def auxiliary(h, kept, kernel, bias, error, k, mask=None):
    """The loss of a linear decoder; `kept` [B, units] says which units it is given."""
    code = Code(h, jnp.where(kept, h, 0), {}, (), Context(), {})
    given = forward(h, mask=mask)._replace(code=code, error=error, decode=lambda z: z @ kernel + bias)
    return penalties.auxk(given, k=k)


@pytest.mark.slow
@given(st.integers(0, 2**20), st.integers(1, 9))
@settings(deadline=None, max_examples=20)
def test_auxiliary_loss_is_the_error_left_by_units_that_no_example_keeps(seed, k):
    rng = np.random.default_rng(seed)
    h, kernel, bias, error = (rng.standard_normal(shape) for shape in ((4, 7), (7, 5), (1, 5), (4, 5)))
    kept = rng.uniform(size=(4, 7)) < 0.3
    expected = np.zeros(4)
    unused = np.flatnonzero(~kept.any(0))
    for i in range(4):
        chosen = unused[np.argsort(-h[i, unused])][:k]
        expected[i] = ((error[i] - h[i, chosen] @ kernel[chosen]) ** 2).sum()
    with jax.enable_x64(True):
        arguments = jnp.asarray(h), jnp.asarray(kept), jnp.asarray(kernel), jnp.asarray(bias), jnp.asarray(error), k
        np.testing.assert_allclose(auxiliary(*arguments), expected, rtol=1e-10)
        # Examples that only fill the batch keep no unit in use.
        filled = [jnp.concatenate([a, jnp.ones_like(a[:1])]) if len(a) == 4 else a for a in arguments[:5]]
        found = auxiliary(*filled, k, mask=jnp.asarray([1.0, 1, 1, 1, 0]))
        np.testing.assert_allclose(found[:4], expected, rtol=1e-10)


@pytest.mark.slow
def test_gradient_of_the_auxiliary_loss_equals_finite_differences():
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        h, kernel, bias, error, dh, dk = (
            jnp.asarray(rng.standard_normal(shape)) for shape in ((4, 7), (7, 5), (1, 5), (4, 5), (4, 7), (7, 5))
        )
        kept = jnp.asarray(rng.uniform(size=(4, 7)) < 0.3)

        def f(eps):
            return auxiliary(h + eps * dh, kept, kernel + eps * dk, bias, error, 2).sum()

        np.testing.assert_allclose(jax.grad(f)(0.0), (f(1e-6) - f(-1e-6)) / 2e-6, rtol=1e-7)
        # The error itself is a constant.
        constant = jax.grad(lambda error: auxiliary(h, kept, kernel, bias, error, 2).sum())(error)
        np.testing.assert_array_equal(constant, np.zeros((4, 5)))


def test_l1_and_code_l2():
    h = np.array([[1.0, -2.0], [0.5, 0.0]], np.float32)
    hidden = [np.array([[-3.0], [1.0]], np.float32)]
    np.testing.assert_allclose(penalties.l1(forward(h), layers="code"), [3.0, 0.5])
    np.testing.assert_allclose(penalties.l1(forward(h, hidden), layers="encoder"), [6.0, 1.5])
    np.testing.assert_allclose(penalties.code_l2(forward(h)), [5.0, 0.25])


def test_kl_sparse_is_the_sum_of_bernoulli_divergences():
    from scipy.stats import entropy

    h = np.random.default_rng(0).uniform(-1, 1, (6, 4)).astype(np.float32)
    rho, mean = 0.1, np.abs(h).mean(0)
    expected = sum(entropy([rho, 1 - rho], [m, 1 - m]) for m in mean)
    np.testing.assert_allclose(penalties.kl_sparse(forward(h), rho=rho, layers="code"), expected, rtol=1e-5)
    # Examples that only fill a batch do not count.
    filled = np.concatenate([h, np.ones_like(h)])
    mask = jnp.asarray([1.0] * 6 + [0.0] * 6)
    np.testing.assert_allclose(
        penalties.kl_sparse(forward(filled, mask=mask), rho=rho, layers="code"), expected, rtol=1e-5
    )
    # Dead and saturated units stay finite, with a finite gradient.
    edge = np.stack([np.zeros(6), np.ones(6)], 1).astype(np.float32)
    value, gradient = jax.value_and_grad(lambda h: penalties.kl_sparse(forward(h), rho=rho, layers="code"))(edge)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_weight_l2_counts_kernels_only():
    params = {"encoder": {"layers_0": {"kernel": jnp.array([[1.0, 2.0]]), "bias": jnp.array([9.0, 9.0])}}}
    assert float(penalties.weight_l2(forward(np.zeros((1, 1)), params=params))) == 2.5


@pytest.mark.parametrize("name", ["l1", "kl_sparse", "code_l2"])
def test_gradients_against_finite_differences(name):
    with jax.enable_x64(True):
        h = np.random.default_rng(1).uniform(0.1, 0.9, (4, 3))
        fields = {"l1": {"layers": "code"}, "kl_sparse": {"rho": 0.2, "layers": "code"}, "code_l2": {}}[name]

        @jax.jit
        def f(h):
            return jnp.sum(getattr(penalties, name)(forward(h), **fields))

        gradient, step = jax.grad(f)(h), 1e-6
        for index in np.ndindex(h.shape):
            delta = np.zeros_like(h)
            delta[index] = step
            numeric = (f(h + delta) - f(h - delta)) / (2 * step)
            np.testing.assert_allclose(gradient[index], numeric, rtol=1e-6)


def test_unit_statistics():
    h = np.array([[0.0, 0.5, 0.0], [0.0, 1.5, 0.2]], np.float32)
    code = forward(h).code
    summary = units.summary(units.sums(code, jnp.ones(2)), 2)
    assert summary["mean_activation"] == pytest.approx(2.2 / 6)
    assert summary["active_units"] == pytest.approx(1.5)
    assert summary["dead_units"] == 1
    masked = units.summary(units.sums(code, jnp.array([1.0, 0.0])), 1)
    assert masked["dead_units"] == 2


def test_probe_separates_what_is_separable():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    codes = np.eye(3)[labels] + 0.05 * rng.standard_normal((400, 3))
    found = probe.error(codes[:300], labels[:300], codes[300:], labels[300:])
    assert found == {"test/probe_error": 0, "validation/probe_error": 0}
    order = np.argsort(labels[:300])  # the held-out part still holds every class
    assert probe.error(codes[:300][order], labels[:300][order], codes[300:], labels[300:]) == found
    shuffled = rng.permutation(labels[300:])
    assert probe.error(codes[:300], labels[:300], codes[300:], shuffled)["test/probe_error"] > 40


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"objective.kl_sparse.weight": 1.0, "model.code_activation": "relu"}, "model.code_activation"),
        (
            {
                "objective.kl_sparse.weight": 1.0,
                "objective.kl_sparse.layers": "encoder",
                "model.code_activation": "sigmoid",
            },
            "model.encoder.activation",
        ),
        ({"objective.kl_sparse.rho": 1.0}, "objective.kl_sparse.rho"),
        ({"model.bottleneck.name": "topk", "model.bottleneck.topk.k": 3}, "model.bottleneck.topk.k"),
        *(
            ({f"model.bottleneck.topk.{field}": 0}, f"model.bottleneck.topk.{field}")
            for field in ("k", "begin", "test")
        ),
        ({"objective.contractive_hessian.samples": 0}, "objective.contractive_hessian.samples"),
        ({"objective.auxk.weight": 1.0}, "objective.auxk.weight"),
        ({"objective.l1.layers": "all"}, "objective.l1.layers"),
        ({"objective.contractive.method": "finite"}, "objective.contractive.method"),
        (
            {"objective.contractive.weight": 1.0, "objective.contractive.method": "closed_form"},
            "objective.contractive.method",
        ),
    ],
)
def test_bad_combinations(changes, field):
    config = change(config_lib.default(), **changes)
    with pytest.raises(InputError) as error:
        check(config)
    one_line(error, f"config.{field} = ")
