import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aejax import run as run_lib
from aejax.data import sources
from aejax.errors import InputError
from aejax.losses import Forward, penalties
from aejax.models import Code, Context
from aejax.pairs import example
from common import VAE, get_config, images, one_line, small, trained, trainer

CVAE = VAE | {
    "pair__name": "inpaint",
    "pair__inpaint__mask": "quadrants",
    "pair__inpaint__channel": False,
    "pair__inpaint__conditional": True,
    "pair__inpaint__beta": 0.0,
    "model__bottleneck__gaussian__prior_widths": (5,),
}


def forward(mean, logvar, **prior):
    code = Code(mean, mean, {"mean": mean, "logvar": logvar, **prior}, (), Context(), {})
    return Forward(lambda x: code, example(mean, mean), code, {}, jax.random.key(0), jnp.zeros(()))


def gaussians(seed=0, shape=(4, 3)):
    """Mean, logvar, prior mean, prior logvar."""
    rng = np.random.default_rng(seed)
    return [jnp.asarray(scale * rng.standard_normal(shape)) for scale in (1.0, 0.5, 1.0, 0.5)]


def log_density(z, mean, logvar):
    return -0.5 * ((z - mean) ** 2 * jnp.exp(-logvar) + logvar + np.log(2 * np.pi))


def test_kl_of_two_gaussians_equals_monte_carlo():
    m, v, p, w = (np.asarray(a)[None] for a in gaussians())
    z = m + np.exp(v / 2) * np.random.default_rng(1).standard_normal((200_000, *m.shape[1:]))
    draws = (log_density(z, m, v) - log_density(z, p, w)).sum(-1)
    value = penalties.kl(forward(*gaussians()[:2], prior_mean=gaussians()[2], prior_logvar=gaussians()[3]))
    error = draws.std(0) / np.sqrt(len(draws))
    assert (np.abs(np.asarray(value) - draws.mean(0)) < 5 * error).all()


def test_kl_to_the_standard_normal_is_the_case_of_no_prior_network():
    m, v, *_ = gaussians()
    zeros = jnp.zeros_like(m)
    np.testing.assert_array_equal(penalties.kl(forward(m, v, prior_mean=zeros, prior_logvar=zeros)),
                                  penalties.kl(forward(m, v)))  # fmt: skip
    expected = 0.5 * (np.asarray(m) ** 2 + np.exp(v) - 1 - np.asarray(v)).sum(-1)
    np.testing.assert_allclose(penalties.kl(forward(m, v)), expected, rtol=1e-5)
    np.testing.assert_array_equal(penalties.kl(forward(m, v, prior_mean=m, prior_logvar=v)), np.zeros(4))


@pytest.mark.slow
def test_gradients_of_kl_and_free_bits_equal_finite_differences():
    with jax.enable_x64(True):
        parts = tuple(jnp.asarray(np.asarray(a, np.float64)) for a in gaussians())
        direction = tuple(jnp.asarray(np.asarray(a, np.float64)) for a in gaussians(1))
        for term in (penalties.kl, lambda given: penalties.free_bits(given, free_bits=1.0)):

            def value(parts, term=term):
                m, v, p, w = parts
                return jnp.sum(term(forward(m, v, prior_mean=p, prior_logvar=w)))

            def moved(eps, value=value):
                return value(tuple(a + eps * d for a, d in zip(parts, direction, strict=True)))

            expected = (moved(1e-6) - moved(-1e-6)) / 2e-6
            gradient = sum(jnp.vdot(g, d) for g, d in zip(jax.grad(value)(parts), direction, strict=True))
            np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_free_bits_are_a_floor_for_each_unit_over_the_batch():
    m, v, *_ = gaussians(shape=(6, 5))
    per_unit = 0.5 * (np.asarray(m) ** 2 + np.exp(v) - 1 - np.asarray(v)).mean(0)
    nats = float(np.median(per_unit))
    value = penalties.free_bits(forward(m, v), free_bits=nats)
    assert value.shape == ()
    np.testing.assert_allclose(value, np.maximum(nats, per_unit).sum(), rtol=1e-5)
    gradient = np.asarray(jax.grad(lambda m: penalties.free_bits(forward(m, v), free_bits=nats))(m))
    below = per_unit < nats
    assert 0 < below.sum() < 5
    assert (gradient[:, below] == 0).all()
    assert (gradient[:, ~(per_unit <= nats)] != 0).all()


@pytest.mark.slow
def test_free_bits_keep_units_in_use(tmp_path):
    kl = {}
    for nats in (0.0, 0.5):
        config = small(**VAE, objective__kl__free_bits=nats, train__epochs=10, model__bottleneck__size=6)
        kl[nats] = run_lib.run(config, tmp_path / str(nats))["test/kl"]
    assert kl[0.5] > max(0.9 * 6 * 0.5, 1.1 * kl[0.0])


@pytest.mark.slow
def test_terms_of_the_conditional_model_by_hand():
    run = trainer(small(**CVAE), images(shape=(6, 5, 1)))
    objective, state = run.experiment.objective, run.init()
    x = run.data.test["x"][:4]
    terms, made = objective.terms(state.params, {}, {"x": jnp.asarray(x)}, key=jax.random.key(0), step=state.step)
    example, code, t = made["example"], made["code"], x / np.float32(255)
    visible = np.zeros((6, 5))
    visible[3:, :2] = 1
    np.testing.assert_array_equal(example.hidden[0, ..., 0], 1 - visible)
    np.testing.assert_array_equal(code.context.condition, example.condition)
    # r from z and the visible quadrant alone, through the decoder's own kernels.
    p = jax.tree.map(np.asarray, state.params)["decoder"]
    given = (t * visible[None, ..., None]).reshape(4, -1)
    h = np.maximum(np.concatenate([code.z, given], 1) @ p["layers_0"]["kernel"] + p["layers_0"]["bias"], 0)
    r = (h @ p["layers_1"]["kernel"] + p["layers_1"]["bias"]).reshape(t.shape)
    entries = np.logaddexp(0, r) - t * r
    expected = entries[:, visible == 0].sum((1, 2))
    np.testing.assert_allclose(terms["reconstruction"], expected, rtol=1e-5)
    # The prior's mean and variance from the visible quadrant alone.
    q = jax.tree.map(np.asarray, state.params)["bottleneck"]["prior_network"]
    h = np.maximum(given @ q["layers_0"]["kernel"] + q["layers_0"]["bias"], 0)
    prior = h @ q["layers_1"]["kernel"] + q["layers_1"]["bias"]
    np.testing.assert_allclose(np.asarray(code.stats["prior_mean"]), prior[:, :3], rtol=1e-4, atol=1e-5)
    m, v, pm, pv = np.asarray(code.stats["mean"]), np.asarray(code.stats["logvar"]), prior[:, :3], prior[:, 3:]
    kl = 0.5 * (pv - v + (np.exp(v) + (m - pm) ** 2) / np.exp(pv) - 1).sum(-1)
    np.testing.assert_allclose(terms["kl"], kl, rtol=1e-4, atol=1e-5)
    # What is visible is no error.
    mean = 1 / (1 + np.exp(-r))
    np.testing.assert_allclose(terms["squared_error"], ((t - mean) ** 2)[:, visible == 0].sum((1, 2)), rtol=1e-4)


@pytest.mark.slow
def test_bound_is_below_the_conditional_likelihood():
    # log p(hidden | visible) by importance sampling over many codes is at least the bound in the mean.
    run = trainer(small(**CVAE, train__epochs=5), images(shape=(6, 5, 1)))
    state, _ = run.run(run.init(), 0, run.length)
    objective = run.experiment.objective
    batch = {"x": jnp.asarray(run.data.test["x"])}
    bounds, logs = [], []

    @jax.jit
    def draw(key):
        terms, made = objective.terms(state.params, {}, batch, key=key, step=state.step)
        s, z = made["code"].stats, made["code"].z
        ratio = log_density(z, s["prior_mean"], s["prior_logvar"]) - log_density(z, s["mean"], s["logvar"])
        return terms["reconstruction"] + terms["kl"], -terms["reconstruction"] + ratio.sum(-1)

    for key in jax.random.split(jax.random.key(1), 200):
        bound, log_weight = draw(key)
        bounds.append(-np.asarray(bound))
        logs.append(np.asarray(log_weight))
    estimate = np.logaddexp.reduce(logs, axis=0) - np.log(len(logs))
    assert (np.mean(bounds, 0) <= estimate + 1e-3).all()


def test_codes_may_carry_a_leading_axis_of_samples():
    run = trainer(small(**CVAE), images(shape=(6, 5, 1)))
    model, state = run.experiment.objective.model, run.init()
    z = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 3)), jnp.float32)
    condition = jnp.asarray(np.random.default_rng(1).uniform(size=(4, 6, 5, 1)), jnp.float32)
    together = model.apply({"params": state.params}, z, Context(condition=condition), method="decode_samples")["x"]
    assert together.shape == (3, 4, 6, 5, 1)
    for i in range(3):
        one = model.apply({"params": state.params}, z[i], Context(condition=condition), method="decode")["x"]
        np.testing.assert_allclose(together[i], one, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_prior_network_is_trained_and_is_part_of_the_bottleneck():
    run = trainer(small(**CVAE), images(shape=(6, 5, 1)))
    before = jax.tree.map(np.asarray, run.init().params)
    assert set(before) == {"encoder", "bottleneck", "decoder"}
    after, _ = run.run(run.init(), 0, run.length)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - np.asarray(b)).max()), before, after.params)
    assert min(jax.tree.leaves(moved["bottleneck"])) > 0
    without = trainer(small(**(CVAE | {"model__bottleneck__gaussian__prior_widths": ()})), images(shape=(6, 5, 1)))
    assert set(without.init().params) == {"encoder", "decoder"}
    assert np.isfinite(without.evaluate(without.init(), "test")["elbo"])


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["quadrants", "square"])
def test_use_of_a_conditional_model(mask):
    model = trained(trainer(small(**(CVAE | {"pair__inpaint__mask": mask})), images(shape=(6, 5, 1))))
    x = images(5, (6, 5, 1), seed=3)
    assert model.encode(x).shape == (5, 3)
    np.testing.assert_allclose(model.score(x)[1:2], model.score(x[1:2]), rtol=1e-5)
    # Kept where visible, the same part for every row.
    same = np.isclose(model.reconstruct(x), x / 255, rtol=1e-6).all(axis=(0, 3))
    assert 0 < same.sum() < 30
    drawn = model.complete(x, n=4)
    assert drawn.shape == (4, 5, 6, 5, 1)
    hidden = (drawn[0] != drawn[1])[..., 0]
    assert hidden.any()
    np.testing.assert_allclose(drawn[:, ~hidden], np.broadcast_to(x[~hidden] / 255, (4, *x[~hidden].shape)), rtol=1e-6)
    np.testing.assert_array_equal(drawn, model.complete(x, n=4))
    for call in (lambda: model.sample(3), lambda: model.decode(np.zeros((2, 3)))):
        with pytest.raises(InputError) as error:
            call()
        one_line(error, "complete")


def test_completions_do_not_see_what_is_hidden():
    model = trained(trainer(small(**CVAE), images(shape=(6, 5, 1))))
    x = images(5, (6, 5, 1), seed=3)
    other = 255 - x
    other[:, 3:, :2] = x[:, 3:, :2]
    np.testing.assert_array_equal(model.complete(x, n=2), model.complete(other, n=2))


@pytest.mark.slow
def test_conditional_model_of_the_digits(tmp_path):
    config = get_config("inpainting_cvae", train__epochs=10, train__eval_epochs=10, figures__examples=2)
    results = run_lib.run(config, tmp_path / "run")
    marginal = sources.load(config).train["x"].mean(0)
    x = sources.load(config).test["x"]
    marginal = marginal.clip(1e-6, 1 - 1e-6)
    entries = -(x * np.log(marginal) + (1 - x) * np.log1p(-marginal))
    entries[:, 4:, :4] = 0
    assert -results["test/elbo"] < entries.sum((1, 2, 3)).mean() - 0.5
    assert results["test/psnr"] > results["test/input_psnr"] + 3
    assert {f.name for f in (tmp_path / "run" / "figures").iterdir()} >= {"completions.png", "inpaint.png"}
