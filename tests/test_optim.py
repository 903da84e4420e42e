import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aejax.methods import optim
from common import small

PARAMS = {
    "encoder": {"kernel": jnp.arange(1.0, 7.0).reshape(2, 3), "bias": jnp.ones(3)},
    "head": {"log_sigma": jnp.ones(())},
}
GRADIENTS = {
    "encoder": {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full(3, -1.0)},
    "head": {"log_sigma": jnp.ones(())},
}


def section(**fields):
    return small(**{f"optim__{name}": value for name, value in fields.items()}).optim


def update(config, steps=10):
    optimizer = optim.build(config, steps)
    return optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS)[0]


def test_constant_schedule():
    schedule = optim.schedule(section(learning_rate=0.3), 100)
    assert [float(schedule(step)) for step in (0, 50, 99)] == pytest.approx([0.3] * 3)


def test_cosine_schedule_is_its_formula():
    schedule = optim.schedule(section(learning_rate=0.3, schedule="cosine", final_fraction=0.1), 100)
    steps = np.array([0, 10, 50, 99, 100])
    expected = 0.03 + 0.27 * (1 + np.cos(np.pi * steps / 100)) / 2
    np.testing.assert_allclose([float(schedule(step)) for step in steps], expected, rtol=1e-5)


def test_linear_schedule_with_warmup():
    config = section(learning_rate=0.3, schedule="linear", final_fraction=0.1, warmup_steps=10)
    schedule = optim.schedule(config, 110)
    expected = {0: 0.0, 5: 0.15, 10: 0.3, 60: 0.165, 110: 0.03}
    np.testing.assert_allclose([float(schedule(s)) for s in expected], list(expected.values()), rtol=1e-5, atol=1e-8)


def test_warmup_longer_than_the_run():
    schedule = optim.schedule(section(learning_rate=0.3, schedule="cosine", warmup_steps=1000), 10)
    assert float(schedule(0)) == 0
    assert float(schedule(9)) == pytest.approx(0.27)


def test_clip_bounds_the_global_norm():
    config = section(name="sgd", momentum=0.0, learning_rate=1.0, clip=0.5)
    assert float(optax.tree.norm(update(config))) == pytest.approx(0.5, rel=1e-5)
    loose = section(name="sgd", momentum=0.0, learning_rate=1.0, clip=100.0)
    assert float(optax.tree.norm(update(loose))) == pytest.approx(float(optax.tree.norm(GRADIENTS)), rel=1e-5)


def test_sgd_momentum_and_nesterov():
    for nesterov, expected in ((False, [-1.0, -1.9]), (True, [-1.9, -2.71])):
        optimizer = optim.build(section(name="sgd", momentum=0.9, learning_rate=1.0, nesterov=nesterov), 10)
        state, found = optimizer.init(jnp.zeros(())), []
        for _ in range(2):
            value, state = optimizer.update(jnp.ones(()), state)
            found.append(float(value))
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("name", ["adamw", "lion", "lamb"])
def test_weight_decay_is_on_kernels_only(name):
    decayed, plain = (update(section(name=name, weight_decay=decay)) for decay in (0.5, 0.0))
    assert (np.asarray(decayed["encoder"]["kernel"]) != np.asarray(plain["encoder"]["kernel"])).all()
    np.testing.assert_array_equal(decayed["encoder"]["bias"], plain["encoder"]["bias"])
    np.testing.assert_array_equal(decayed["head"]["log_sigma"], plain["head"]["log_sigma"])


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_every_optimizer_descends(name):
    optimizer = optim.build(section(name=name, learning_rate=0.05), 50)
    x = jnp.asarray([1.0, -2.0])
    state = optimizer.init({"kernel": x})
    params = {"kernel": x}
    for _ in range(50):
        updates, state = optimizer.update({"kernel": 2 * params["kernel"]}, state, params)
        params = optax.apply_updates(params, updates)
    assert float(jnp.sum(params["kernel"] ** 2)) < 5.0 * 0.9


def test_layer_rates_fall_from_the_top_down():
    layers = {f"layers_{k}": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)} for k in range(11)}
    params = {"encoder": layers, "decoder": {"layers_0": {"bias": jnp.ones(2)}}}
    for decay in (0.5, 0.0):
        scaled, _ = optim.layer_rates(decay).update(params, None)
        for k in range(11):
            np.testing.assert_allclose(scaled["encoder"][f"layers_{k}"]["kernel"], np.full((2, 2), decay ** (11 - k)))
        np.testing.assert_array_equal(scaled["decoder"]["layers_0"]["bias"], np.ones(2))


def test_layer_rates_know_the_order_of_convolutional_and_dense_layers():
    leaf = {"kernel": jnp.ones(())}
    params = {"encoder": {"blocks_0": leaf, "blocks_1": leaf, "activations_0": {"LayerNorm_0": {"scale": jnp.ones(())}},
                          "dense": {"layers_0": leaf}}}  # fmt: skip
    scaled, _ = optim.layer_rates(0.5).update(params, None)
    found = scaled["encoder"]
    assert float(found["dense"]["layers_0"]["kernel"]) == 0.5
    assert float(found["blocks_1"]["kernel"]) == 0.25
    assert float(found["blocks_0"]["kernel"]) == float(found["activations_0"]["LayerNorm_0"]["scale"]) == 0.125
