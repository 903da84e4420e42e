"""Forecasting: the pair, the composite model, the use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import aejax
from aejax import run as run_lib
from aejax.data import sources
from aejax.errors import InputError
from aejax.models import recurrent
from aejax.pairs.forecast import Forecast
from common import get_config, one_line, results

TINY = {
    "train__epochs": 1,
    "train__batch_size": 20,
    "model__encoder__widths": (8,),
    "model__bottleneck__size": 6,
    "train__progress": False,
    "figures__enabled": False,
}


def test_the_last_steps_are_not_seen():
    x = jnp.arange(24.0).reshape(2, 4, 3)
    example = Forecast(steps=1).make(None, {"x": x})
    np.testing.assert_array_equal(example.input, x[:, :3])
    np.testing.assert_array_equal(example.target, x)
    np.testing.assert_array_equal(example.hidden, np.array([0, 0, 0, 1.0]).reshape(1, 4, 1))


@pytest.mark.parametrize("conditional", [False, True])
def test_the_composite_model_is_two_decoders_of_one_code(conditional):
    fields = {"widths": (5,), "conditional": conditional}
    z = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32))
    both = recurrent.Decoder(**fields, shape=(7, 2, 3, 1), future=3)
    params = both.init(jax.random.key(0), z)["params"]
    r = both.apply({"params": params}, z)
    assert r.shape == (3, 7, 2, 3, 1)
    own = {name: value for name, value in params.items() if name != "predictor"}
    past = recurrent.Decoder(**fields, shape=(4, 2, 3, 1)).apply({"params": own}, z)
    next_steps = recurrent.Decoder(**fields, shape=(3, 2, 3, 1), backwards=False)
    np.testing.assert_allclose(r[:, :4], past, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(r[:, 4:], next_steps.apply({"params": params["predictor"]}, z), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_forecast_of_videos_is_measured(tmp_path):
    found = run_lib.run(get_config("video", **(TINY | {"figures__enabled": True})), tmp_path)
    assert results(tmp_path).items() <= found.items()
    data = sources.load(get_config("video"))
    x = data.test["x"] / np.float32(255)
    last = ((x[:, 4:5] - x[:, 5:]) ** 2).sum((1, 2, 3, 4)).mean()
    assert found["forecast/last/squared_error"] == pytest.approx(last, rel=1e-5)
    r = aejax.load(tmp_path).reconstruct(data.test["x"])
    expected = ((r[:, 5:] - x[:, 5:]) ** 2).sum((1, 2, 3, 4)).mean()
    assert found["forecast/squared_error"] == pytest.approx(expected, rel=1e-4)
    assert found["test/squared_error"] == pytest.approx(expected + found["forecast/seen_squared_error"], rel=1e-4)
    assert {"forecast.png", "steps.png"} <= {path.name for path in (tmp_path / "uses/forecast/figures").iterdir()}
    assert (tmp_path / "figures/reconstructions.png").is_file()


@pytest.mark.slow
def test_a_forecast_of_series_is_better_than_the_last_step(tmp_path):
    t = np.arange(30)[None] + np.random.default_rng(0).uniform(0, 20, (300, 1))
    np.savez(tmp_path / "x.npz", x=np.sin(t / 3)[..., None] * 3)
    config = get_config("video", f"npz:{tmp_path / 'x.npz'}", **TINY, data__kind="series", train__steps=300)
    config.objective.likelihood = "squared_error"
    found = run_lib.run(config, tmp_path / "run")
    assert found["forecast/squared_error"] < found["forecast/last/squared_error"] / 4


BAD = [
    ({"pair__forecast__steps": 10}, "moving_digits", "must be less than the 10 steps of x"),
    ({"model__recurrent__future": 10}, "moving_digits", "must be less than the 10 steps of the data"),
    ({"data__kind": "auto", "model__name": "mlp"}, "digits", "needs series or videos; the data are a image"),
    ({"pair__name": "reconstruct"}, "moving_digits", "needs pair.name = 'forecast'"),
]


@pytest.mark.parametrize(("fields", "source", "expected"), BAD)
def test_bad_configs(fields, source, expected):
    with pytest.raises(InputError) as error:
        run_lib.run(get_config("video", source, **(TINY | fields)))
    one_line(error, expected)
