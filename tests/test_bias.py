"""model.decoder.bias_init = data_mean: with the last kernel at zero the decoder gives the training mean."""

import jax
import numpy as np
import pytest

from aejax import config as config_lib
from aejax import run as run_lib
from aejax.data import sources
from aejax.data.bags import dense
from aejax.errors import InputError
from aejax.trained import Trained
from aejax.training import bias, plan
from common import one_line


@pytest.mark.parametrize(
    ("name", "fields", "per_channel"),
    [
        ("ae", {}, False),
        pytest.param("text", {}, False, marks=pytest.mark.slow),
        pytest.param("conv", {"model.conv.upsample": "repeat"}, True, marks=pytest.mark.slow),
    ],
)
def test_begins_at_the_training_mean(name, fields, per_channel):
    config = config_lib.shipped(name)
    for path, value in ({"model.decoder.bias_init": "data_mean"} | fields).items():
        config_lib.set_field(config, path, value)
    config = plan.resolve(config)
    data = sources.load(config)
    experiment, _ = run_lib.prepare(config, data)
    state = jax.tree.map(np.asarray, experiment.init())
    params = bias.data_mean(state.params, experiment=experiment, data=data)
    last = params["decoder"][experiment.model.decoder.last]
    last["kernel"] = np.zeros_like(last["kernel"])
    model = Trained(experiment, params, state.variables)
    x = data.train["x"]
    found = model.map(model.pure_reconstruct, x[:1])[0]
    values = dense(x).astype(np.float64) / (255 if x.dtype == np.uint8 else 1)
    if name == "text":
        values = values / np.maximum(values.sum(1, keepdims=True), 1e-12)
    mean = values.mean(0)
    if per_channel:
        np.testing.assert_allclose(found, np.broadcast_to(mean.mean((0, 1)), found.shape), atol=1e-5)
    else:
        np.testing.assert_allclose(found, mean, atol=1.1e-4)  # a pixel that is never on begins at 1e-4


def test_is_refused_where_the_model_gives_labels():
    config = config_lib.shipped("stacked")
    config.model.decoder.bias_init = "data_mean"
    with pytest.raises(InputError) as error:
        plan.resolve(config)
    one_line(error, "config.model.decoder.bias_init = 'data_mean'", "must be zeros")
