"""The loop of a training: its checkpoints, and when it ends."""

import numpy as np
import pytest

import aejax
from aejax import run as run_lib
from aejax.data import sources
from common import assert_equal, images, metrics, one_line, results, small


@pytest.mark.slow
def test_the_best_checkpoint_is_of_the_lowest_validation_loss(tmp_path):
    # A rate so large that the loss rises after the first epoch.
    config = small(optim__learning_rate=0.3, train__epochs=3, data__validation_fraction=0.2)
    run_lib.run(config, tmp_path / "a", sources.from_array(images(), config))
    losses = [line["loss"] for line in metrics(tmp_path / "a") if line["split"] == "validation"]
    best, last = (aejax.load(tmp_path / "a", checkpoint=name) for name in ("best", "last"))
    data = sources.from_array(images(), config)
    found = [m.score(data.validation["x"]).mean() for m in (best, last)]
    assert found == pytest.approx([min(losses), losses[-1]], rel=1e-4)
    assert np.argmin(losses) < len(losses) - 1


@pytest.mark.slow
@pytest.mark.optimized
def test_early_stopping_keeps_the_best_state(tmp_path):
    fields = {
        "finetune__patience": 3,
        "data__validation_fraction": 0.3,
        "train__epochs": 60,
        "train__eval_epochs": 1,
        "optim__learning_rate": 0.1,
    }
    config = small(**fields)
    data = sources.from_array(images(60), config)
    run_lib.run(config, tmp_path / "a", data)
    losses = [line["loss"] for line in metrics(tmp_path / "a") if line["split"] == "validation"]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 3 < 60
    assert results(tmp_path / "a")["epochs"] == best + 1
    assert results(tmp_path / "a")["validation/loss"] == pytest.approx(losses[best], rel=1e-6)
    assert_equal(aejax.load(tmp_path / "a").params, aejax.load(tmp_path / "a", "best").params)
    # Begun again after its last save, the run ends at the same place.
    (tmp_path / "a" / "results.json").unlink()
    run_lib.run(config, tmp_path / "a", data)
    assert results(tmp_path / "a")["validation/loss"] == pytest.approx(losses[best], rel=1e-6)
    assert len([line for line in metrics(tmp_path / "a") if line["split"] == "validation"]) == len(losses)
    # What it holds is not its last state, so that it cannot be trained longer.
    with pytest.raises(ValueError, match="holds a run") as error:
        run_lib.run(small(**fields | {"train__epochs": 80}), tmp_path / "a", data)
    one_line(error, "config.train.epochs = 60, not 80")
