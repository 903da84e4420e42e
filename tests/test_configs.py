"""Every file of configs/ end to end, shrunk, on its default source; most of them in the slow tests."""

import json

import numpy as np
import pytest

import aejax
from aejax import config as config_lib
from aejax import run as run_lib
from aejax.data import sources
from common import CONFIGS, get_config, quick


def shrink(config):
    """One pass of whatever is counted in epochs, small figures; the model stays."""
    for path, value in config_lib.flatten(config.to_dict()).items():
        if path.split(".")[-1] == "epochs" and value:
            config_lib.set_field(config, path, 1)
    config.train.progress = False
    config.data.label_draws = 1
    config.method.clustering.start_epochs = 0
    probed = config.name == "k_sparse"  # the same classifier for all
    config.uses.run = tuple(use for use in config.uses.run if probed or use != "probe")
    if config.pair.name in ("caption", "forecast"):
        config.train.steps = 20
    config.figures.examples, config.figures.grid = 3, 3
    return config


@pytest.mark.parametrize("path", quick("vae"))
def test_config_trains_loads_and_is_used(path, tmp_path):
    config = shrink(get_config(path.stem))
    if path.stem == "finetune":  # as its header says
        run_lib.run(shrink(get_config("contractive")), tmp_path / "start")
        config.init_from = str(tmp_path / "start")
    found = run_lib.run(config, tmp_path / "run")
    assert found == json.loads((tmp_path / "run" / "results.json").read_text())
    assert all(np.isfinite(value) for value in found.values()), found
    assert all(name.stat().st_size for name in (tmp_path / "run" / "figures").glob("*.png"))
    first = "few_labels" if config.data.labeled_examples else "loss"
    assert (tmp_path / "run" / "figures" / f"{first}.png").exists()
    model = aejax.load(tmp_path / "run")
    x = sources.load(config).test["x"][:3]
    codes = model.encode(x)
    assert codes.shape == (3, *model.code_shape)
    assert np.isfinite(codes).all()
    if model.objective.pair.writes:
        assert len(model.write(x)) == 3
    elif model.objective.pair.supervised:
        np.testing.assert_allclose(model.classify(x).sum(1), 1, rtol=1e-5)
    else:
        assert np.isfinite(model.reconstruct(x)).all()
        assert model.score(x).shape == (3,)


def test_configs_of_the_readme_exist():
    assert {"ae", "linear", "deep", "overcomplete", "vae"} <= {path.stem for path in CONFIGS}
