import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aejax import models
from common import VAE, images, small, table, trainer

SHAPE = (6, 5, 1)


def build(shape=SHAPE, **fields):
    return models.build(small(**fields).model, shape=shape)


def variables(model, shape=SHAPE):
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *shape)))


def reconstruct(model, variables, x, **how):
    """The output of the only head."""
    return model.apply(variables, x, **how)[0]["x"]


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(entry.key for entry in path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.parametrize("shape", [(6, 5, 1), (4, 4, 3), (9,)])
def test_shapes(shape):
    model = build(shape, model__encoder__widths=(8, 6))
    x = jnp.ones((3, *shape))
    r, code = model.apply(variables(model, shape), x)
    assert r["x"].shape == x.shape
    assert code.h.shape == code.z.shape == (3, 3)
    assert [h.shape for h in code.hidden] == [(3, 8), (3, 6)]


def test_forward_pass_equals_numpy():
    model = build(model__encoder__activation="tanh", model__code_activation="sigmoid")
    v = variables(model)
    w = flat(v["params"])
    x = np.random.default_rng(0).random((4, *SHAPE), np.float32)
    hidden = np.tanh(x.reshape(4, -1) @ w["encoder/layers_0/kernel"] + w["encoder/layers_0/bias"])
    z = 1 / (1 + np.exp(-(hidden @ w["encoder/layers_1/kernel"] + w["encoder/layers_1/bias"])))
    back = np.tanh(z @ w["decoder/layers_0/kernel"] + w["decoder/layers_0/bias"])
    r = back @ w["decoder/layers_1/kernel"] + w["decoder/layers_1/bias"]
    found, code = model.apply(v, jnp.asarray(x))
    np.testing.assert_allclose(code.z, z, rtol=1e-5)
    np.testing.assert_allclose(found["x"], r.reshape(x.shape), rtol=1e-4, atol=1e-6)


def test_parameters_have_known_names_at_the_top():
    config = small(model__bottleneck__name="gaussian", objective__likelihood="gaussian", objective__learn_sigma=True)
    assert set(trainer(config, images()).init().params) == {"encoder", "decoder", "head"}


def test_decoder_widths_are_free():
    model = build(model__encoder__widths=(8,), model__decoder__widths=(5, 4))
    shapes = {name: leaf.shape for name, leaf in flat(variables(model)["params"]).items() if "kernel" in name}
    assert [shapes[f"decoder/layers_{i}/kernel"] for i in range(3)] == [(3, 5), (5, 4), (4, 30)]


@pytest.mark.slow
@pytest.mark.parametrize("widths", [(), (8,), (8, 6)])
def test_tied_weights_are_the_encoders_transposed(widths):
    model = build(model__encoder__widths=widths, model__decoder__tied=True)
    v = variables(model)
    w = flat(v["params"])
    layers = len(widths) + 1
    assert [name for name in w if "kernel" in name] == [f"encoder/layers_{i}/kernel" for i in range(layers)]
    assert sum("decoder" in name and "bias" in name for name in w) == layers  # biases of its own
    # The same function as an untied model that is given the transposed kernels.
    untied = build(model__encoder__widths=widths)
    decoder = {
        f"layers_{i}": {
            "kernel": w[f"encoder/layers_{layers - 1 - i}/kernel"].T,
            "bias": w[f"decoder/layers_{i}/bias"] + 0.1,
        }
        for i in range(layers)
    }
    biased = {**v["params"], "decoder": {k: {"bias": value["bias"]} for k, value in decoder.items()}}
    x = jnp.asarray(np.random.default_rng(0).random((4, *SHAPE), np.float32))
    separate = {"encoder": v["params"]["encoder"], "decoder": decoder}
    np.testing.assert_allclose(
        reconstruct(model, {"params": biased}, x), reconstruct(untied, {"params": separate}, x), rtol=1e-5, atol=1e-6
    )

    # The gradient of a shared kernel is the sum of both uses.
    def loss(model, params):
        return jnp.sum((reconstruct(model, {"params": params}, x) - x) ** 2)

    tied_gradient = jax.grad(lambda p: loss(model, p))(biased)
    parts = jax.grad(lambda p: loss(untied, p))(separate)
    for i in range(layers):
        both = parts["encoder"][f"layers_{i}"]["kernel"] + parts["decoder"][f"layers_{layers - 1 - i}"]["kernel"].T
        np.testing.assert_allclose(tied_gradient["encoder"][f"layers_{i}"]["kernel"], both, rtol=1e-4, atol=1e-4)


def test_tied_decode_without_encode():
    model = build(model__decoder__tied=True)
    v = variables(model)
    x = jnp.ones((2, *SHAPE))
    r, code = model.apply(v, x)
    np.testing.assert_allclose(model.apply(v, code.z, method="decode")["x"], r["x"], rtol=1e-6)


def test_gaussian_samples_only_with_a_stream():
    model = build(**VAE)
    v = variables(model)
    x = jnp.ones((2, *SHAPE))
    code = model.apply(v, x, method="encode")
    np.testing.assert_array_equal(code.z, code.stats["mean"])
    np.testing.assert_array_equal(code.h, code.stats["mean"])
    x = jnp.ones((20_000, *SHAPE))
    code = model.apply(v, x, method="encode", rngs={"sample": jax.random.key(1)})
    z, deviation = np.asarray(code.z), np.exp(np.asarray(code.stats["logvar"][0]) / 2)
    np.testing.assert_allclose(z.mean(0), code.stats["mean"][0], atol=4 * deviation.max() / np.sqrt(len(z)))
    np.testing.assert_allclose(z.std(0), deviation, rtol=0.03)


@pytest.mark.parametrize("fields", [{}, {"model__decoder__tied": True}, VAE], ids=["identity", "tied", "gaussian"])
def test_bfloat16_computes_low_and_keeps_high(fields):
    low = build(model__dtype="bfloat16", **fields)
    v = variables(low)
    assert {leaf.dtype for leaf in jax.tree.leaves(v)} == {np.dtype("float32")}
    x = jnp.asarray(np.random.default_rng(0).random((4, *SHAPE), np.float32))
    r, code = low.apply(v, x)
    assert r["x"].dtype == code.z.dtype == code.h.dtype == jnp.float32
    assert {h.dtype for h in code.hidden} == {jnp.dtype("bfloat16")}
    exact = reconstruct(build(**fields), v, x)
    assert 0 < np.abs(np.asarray(r["x"] - exact)).max() < 0.1


def test_bfloat16_training_keeps_float32_state_and_losses():
    run = trainer(small(model__dtype="bfloat16"), images())
    state, metrics = run.run(run.init(), 0, 2)
    kinds = {leaf.dtype for leaf in jax.tree.leaves((state.params, state.opt_state))}
    assert kinds <= {np.dtype("float32"), np.dtype("int32")}
    assert np.isfinite(metrics["loss"])


def test_dropout_only_in_training():
    model = build(model__encoder__dropout=0.5)
    v, x = variables(model), jnp.ones((2, *SHAPE))
    np.testing.assert_array_equal(reconstruct(model, v, x), reconstruct(model, v, x))
    noisy = [reconstruct(model, v, x, train=True, rngs={"dropout": jax.random.key(i)}) for i in range(2)]
    assert not np.array_equal(*map(np.asarray, noisy))


def test_batch_norm_keeps_running_statistics():
    run = trainer(small(model__encoder__norm="batch"), images())
    before = run.init()
    after, _ = run.run(before, 0, 2)
    statistics = flat(after.variables)
    assert statistics
    assert any("mean" in name and np.abs(leaf).max() > 0 for name, leaf in statistics.items())


@pytest.mark.slow
@pytest.mark.parametrize("norm", models.NORMS)
def test_every_norm_trains_on_a_table(norm):
    run = trainer(small(model__encoder__norm=norm, optim__learning_rate=0.03), table())
    state = run.init()
    before = run.evaluate(state, "test")["loss"]
    for step in range(0, 20, 2):
        state, _ = run.run(state, step, step + 2)
    assert run.evaluate(state, "test")["loss"] < 0.8 * before


@pytest.mark.parametrize("activation", models.ACTIVATIONS)
def test_every_activation_keeps_shape_and_is_finite(activation):
    x = jnp.linspace(-50.0, 50.0, 11)
    y = models.ACTIVATIONS[activation](x)
    assert y.shape == x.shape
    assert np.isfinite(np.asarray(y)).all()


@pytest.mark.parametrize("init", models.INITS)
def test_every_initializer_gives_a_kernel(init):
    kernel = flat(variables(build(model__encoder__kernel_init=init))["params"])["encoder/layers_0/kernel"]
    assert kernel.shape == (30, 8)
    assert 0.05 < kernel.std() < 0.6
