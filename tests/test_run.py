"""A run from config to results, and where it may write."""

import json

import numpy as np
import pytest

from aejax import run as run_lib
from aejax.data import sources
from aejax.errors import InputError
from aejax.training import resumption
from common import VAE, images, metrics, one_line, results, small, table


@pytest.mark.slow
def test_a_run_directory_is_complete(tmp_path):
    config = small(**VAE, figures__enabled=True, figures__grid=3, figures__examples=3, model__bottleneck__size=2,
                   data__validation_fraction=0.2)  # fmt: skip
    y = np.arange(100) % 3
    found = run_lib.run(config, tmp_path / "a", sources.from_array(images(), config, y))
    names = {path.name for path in (tmp_path / "a").iterdir() if not path.name.startswith(".")}
    assert names == {
        "config.json", "data.json", "environment.json", "metrics.jsonl", "results.json", "report.html", "checkpoints",
        "figures", "tensorboard", "uses",
    }  # fmt: skip
    assert {path.stem for path in (tmp_path / "a" / "figures").glob("*.png")} == {
        "loss", "reconstructions", "codes", "filters", "grid", "samples",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "a" / "checkpoints").iterdir()} == {"last", "best"}
    assert found == json.loads((tmp_path / "a" / "results.json").read_text())
    assert {"test/loss", "test/reconstruction", "test/kl", "test/elbo", "test/squared_error", "test/pca_squared_error",
            "validation/loss", "parameters", "seconds", "examples_per_second"} <= set(found)  # fmt: skip
    lines = metrics(tmp_path / "a")
    assert {line["split"] for line in lines} == {"train", "validation", "test"}
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert {"loss", "reconstruction", "kl", "gradient_norm", "parameter_norm", "learning_rate"} <= set(lines[0])
    assert list((tmp_path / "a" / "tensorboard").iterdir())


def test_results_are_those_of_evaluation(tmp_path):
    config = small(train__epochs=3)
    data = sources.from_array(images(), config)
    run_lib.run(config, tmp_path / "a", data)
    last = [line for line in metrics(tmp_path / "a") if line["split"] == "test"][-1]
    found = results(tmp_path / "a")
    assert {f"test/{n}": v for n, v in last.items() if n not in ("step", "epoch", "split")}.items() <= found.items()
    flat = [split["x"].reshape(len(split["x"]), -1) / 255 for split in (data.train, data.test)]
    mean = flat[0].mean(0)
    axes = np.linalg.svd(flat[0] - mean, full_matrices=False)[2][:3]
    residual = (flat[1] - mean) - (flat[1] - mean) @ axes.T @ axes
    assert found["test/pca_squared_error"] == pytest.approx((residual**2).sum(1).mean(), rel=1e-4)


def test_refused_before_the_run_directory_is_made(tmp_path):
    for config, x in [
        (small(train__batch_size=81), images()),
        (small(mesh__data=99), images()),
        (small(objective__likelihood="bernoulli"), table()),
        (small(optim__accumulate=5), images()),
    ]:
        with pytest.raises(InputError) as error:
            run_lib.run(config, tmp_path / "a", sources.from_array(x, config))
        one_line(error, "config.")
        assert not (tmp_path / "a").exists()


def test_a_workdir_of_another_config_or_other_data(tmp_path):
    path, config = tmp_path / "a", small()
    run_lib.run(config, path, sources.from_array(images(), config))
    before = {file: file.read_bytes() for file in path.glob("*.json*")}
    with pytest.raises(InputError) as error:
        run_lib.run(small(seed=1), path, sources.from_array(images(), config))
    one_line(error, str(path), "config.seed")
    with pytest.raises(InputError) as error:  # longer, but of another seed
        run_lib.run(small(seed=1, train__epochs=3), path, sources.from_array(images(), config))
    one_line(error, str(path), "config.seed")
    with pytest.raises(InputError) as error:
        run_lib.run(small(train__epochs=3), path, sources.from_array(images(seed=1), config))
    one_line(error, str(path), "data")
    with pytest.raises(InputError) as error:
        run_lib.run(small(train__epochs=1), path, sources.from_array(images(), config))
    one_line(error, "config.train.epochs")
    assert before == {file: file.read_bytes() for file in path.glob("*.json*")}  # results.json among them


def test_workdirs_that_cannot_be_used(tmp_path):
    config = small()
    data = sources.from_array(images(), config)
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "full", "/proc/1/run"):
        with pytest.raises(InputError) as error:
            run_lib.run(config, path, data)
        one_line(error, f"workdir {path}")
    assert [f.name for f in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_one_process_at_a_time(tmp_path):
    config = small()
    data = sources.from_array(images(), config)
    with resumption.opened(tmp_path / "a", config, data.spec):
        for other in (config, small(checkpoint__every_steps=5)):  # the second replaces config.json
            with pytest.raises(InputError) as error, resumption.opened(tmp_path / "a", other, data.spec):
                pass
            one_line(error, "another process")
