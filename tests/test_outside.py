"""A part outside the package needs one registry line and a config; its fields, checks, results and figures follow.

The parts lie in tests/outside/, each in a file as a user would write it.
"""

import os

import jax
import numpy as np
import pytest

import aejax
from aejax import config as config_lib
from aejax import run as run_lib
from aejax.data import sources
from aejax.data.sources import SOURCES, Source
from aejax.errors import InputError
from aejax.losses import PENALTIES, Penalty
from aejax.methods import METHODS
from aejax.models import BOTTLENECKS, FAMILIES, Family
from aejax.page import figures
from aejax.page import results as meanings
from aejax.pairs import PAIRS
from aejax.uses import USES, Result, Use
from common import (
    ROOT,
    assert_equal,
    change,
    check,
    command,
    finish,
    images,
    metrics,
    one_line,
    results,
    small,
    table,
    trainer,
    without_clock,
)
from outside import bottleneck, family, method, pair, penalty, source, use

# The one line of each part: its registry, its name and its entry; a field of it with the default; a value out of range.
PARTS = {
    "penalty": (PENALTIES, "elastic", Penalty(penalty.elastic), "objective.elastic.ratio", 0.5, -1.0),
    "bottleneck": (BOTTLENECKS, "scaled", bottleneck.Scaled, "model.bottleneck.scaled.initial", 2.0, 0.0),
    "pair": (PAIRS, "jitter", pair.Jitter, "pair.jitter.most", 1, 0),
    "family": (
        FAMILIES,
        "residual",
        Family(family.Encoder, family.Decoder, family.check),
        "model.residual.blocks",
        1,
        -1,
    ),
    "use": (USES, "spread", Use(use.measure, use.METRICS), "uses.spread.examples", 1000, 1),
    "method": (METHODS, "alternate", method.Alternate, "method.alternate.rate", 1.0, 0.0),
    "source": (
        SOURCES,
        "bars",
        Source("bars:SIZE", source.read, fields=source.Fields),
        "data.bar_probability",
        0.2,
        1.0,
    ),
}


@pytest.fixture
def register(monkeypatch):
    """The registry line of a part."""

    def line(part):
        registry, name, entry, *_ = PARTS[part]
        monkeypatch.setitem(registry, name, entry)

    return line


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Images of 6 x 5 pixels as a source."""
    file = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(file, x=images(80), y=np.arange(80) % 3)
    return f"npz:{file}"


def quick(source, **fields):
    """A config that measures nothing but the terms of the objective, unless asked."""
    return small(source, **({"uses__run": ()} | fields))


def run(config, path):
    """The results and the model of a run; the same command again returns the results as they are."""
    found = run_lib.run(config, path)
    assert run_lib.run(config, path) == found
    assert results(path) == without_clock(found)
    model = aejax.load(path)
    assert np.isfinite(model.encode(images(4, shape=model.spec.x.shape))).all()
    return found, model


@pytest.mark.parametrize("part", PARTS)
def test_the_fields_of_a_part_become_fields_of_the_config(part, register):
    *_, path, default, wrong = PARTS[part]
    assert path not in config_lib.flatten(config_lib.default().to_dict())
    digest = config_lib.digest(small())
    register(part)
    config = small()
    assert config_lib.get(config_lib.default(), path) == default
    assert config_lib.digest(config) == digest  # a part that is not chosen changes no run's name
    (line,) = (line for line in config_lib.describe(config).splitlines() if line.startswith(f"{path} = "))
    field = config_lib.about(path)
    assert line == f"{path} = {default!r}  # {field.about}; must {field.allowed}"
    with pytest.raises(InputError) as error:
        check(change(config.unlock(), **{path.replace(".", "__"): wrong}))
    one_line(error, f"config.{path} = {wrong!r}: must {field.allowed}")


def test_penalty(register, archive, tmp_path):
    register("penalty")
    found, model = run(quick(archive, objective__elastic__weight=0.1, objective__elastic__ratio=2.0), tmp_path)
    assert {"train", "test"} == {line["split"] for line in metrics(tmp_path) if line["elastic"] > 0}
    assert found["test/loss"] == pytest.approx(found["test/reconstruction"] + 0.1 * found["test/elastic"])
    z = model.encode(sources.load(model.config).test["x"])
    assert found["test/elastic"] == pytest.approx(np.mean(np.sum(np.abs(z) + 2 * z**2, -1)), rel=1e-5)


def test_a_run_with_a_part_is_loaded_where_the_part_is_registered(register, archive, tmp_path, monkeypatch):
    register("penalty")
    run_lib.run(quick(archive, train__epochs=1), tmp_path)
    monkeypatch.undo()
    with pytest.raises(InputError) as error:
        aejax.load(tmp_path)
    one_line(error, "config.json: unknown field objective.elastic.")


@pytest.mark.slow
def test_a_config_file_may_hold_the_registry_line(tmp_path):
    file = tmp_path / "elastic.py"
    file.write_text(
        "from aejax import config\n"
        "from aejax.losses import PENALTIES, Penalty\n"
        "from outside import penalty\n"
        "PENALTIES['elastic'] = Penalty(penalty.elastic)\n"
        "def get_config(source='digits'):\n"
        "    return config.default(source)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    flags = (f"--config={file}", "--config.objective.elastic.ratio=3", "--print_config")
    out, _ = finish(command(*flags, env=environment))
    assert "objective.elastic.ratio = 3.0  # weight of the squares beside the absolute values; must be at" in out


@pytest.mark.slow
def test_bottleneck(register, archive, tmp_path):
    register("bottleneck")
    fields = {"model__bottleneck__name": "scaled", "model__bottleneck__scaled__initial": 1.5}
    found, model = run(quick(archive, **fields), tmp_path)
    assert all(line["scale_mean"] > 0 for line in metrics(tmp_path))
    scales = np.exp(model.params["bottleneck"]["log_scale"])
    assert found["test/scale_mean"] == pytest.approx(scales.mean(), rel=1e-5)
    assert abs(scales - 1.5).min() > 1e-4  # they were trained


@pytest.mark.slow
def test_pair(register, archive, tmp_path):
    register("pair")
    found, model = run(quick(archive, pair__name="jitter", pair__jitter__most=2, figures__enabled=True), tmp_path)
    assert found["test/squared_error"] != found["test/clean/squared_error"]
    assert np.isfinite(found["test/input_psnr"])  # the input holds less than the target
    assert (tmp_path / "figures" / "jitter.png").is_file()
    rows = figures.pair_rows(model, images(4))
    assert list(rows) == ["moved", "put back", "in place"]
    with pytest.raises(InputError) as error:
        trainer(small(pair__name="jitter"), table())
    one_line(error, "config.pair.name = 'jitter': needs images, and the data are a table")


@pytest.mark.slow
def test_family(register, archive, tmp_path):
    register("family")
    _, model = run(quick(archive, model__name="residual", model__residual__blocks=2), tmp_path)
    for part in ("encoder", "decoder"):
        assert sorted(model.params[part]["layers_0"]) == ["Dense_0", "Dense_1", "Dense_2"]


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize(("field", "value"), [("norm", "layer"), ("dropout", 0.5)])
def test_a_field_that_a_family_lacks_must_have_its_default(part, field, value, register):
    register("family")
    with pytest.raises(InputError) as error:
        check(small(model__name="residual", **{f"model__{part}__{field}": value}))
    one_line(error, f"config.model.{part}.{field} = {value!r}: must be ", "model.name = 'residual' has no such field")


def test_a_family_is_checked_by_its_own_function(register):
    register("family")
    with pytest.raises(InputError) as error:
        check(small(model__name="residual", model__encoder__widths=()))
    one_line(error, "config.model.encoder.widths = (): must name at least one layer for model.name = 'residual'")


def test_a_family_without_kernels_is_not_tied(register):
    register("family")
    with pytest.raises(InputError) as error:
        check(small(model__name="residual", model__decoder__tied=True))
    one_line(error, "config.model.decoder.tied = True: must be False: model.name = 'residual' shares no kernels")


def test_a_family_decodes_tables_too(register):
    register("family")
    params = trainer(small(model__name="residual"), table()).init().params
    assert sorted(params["decoder"]["layers_0"]) == ["Dense_0", "Dense_1"]


@pytest.mark.slow
def test_a_family_is_fine_tuned_layer_by_layer(register, archive, tmp_path):
    register("family")
    _, pretrained = run(quick(archive, model__name="residual"), tmp_path / "pretrained")
    fields = {"finetune__name": "classifier", "init_from": str(tmp_path / "pretrained"), "model__name": "residual"}
    found, frozen = run(quick(archive, finetune__freeze=True, **fields), tmp_path / "frozen")
    assert 0 <= found["test/error"] <= 100
    assert_equal(pretrained.params["encoder"], frozen.params["encoder"])
    _, tuned = run(quick(archive, finetune__layer_decay=1e-2, **fields), tmp_path / "tuned")
    change = jax.tree.map(lambda a, b: float(abs(a - b).max()), pretrained.params["encoder"], tuned.params["encoder"])
    assert 0 < max(jax.tree.leaves(change["layers_0"])) < max(jax.tree.leaves(change["layers_1"]))


@pytest.mark.slow
def test_use(register, archive, tmp_path):
    register("use")
    fields = {"uses__run": ("spread",), "uses__spread__examples": 10, "figures__enabled": True}
    found, _ = run(small(archive, **fields), tmp_path)
    folder = tmp_path / "uses" / "spread"
    assert results(folder) == {"test/code_spread": found["test/code_spread"]}
    assert found["test/code_spread"] >= 1
    assert (folder / "units.csv").read_text().splitlines()[0] == "unit,mean,deviation"
    assert len((folder / "units.csv").read_text().splitlines()) == 1 + 3
    assert (folder / "figures" / "deviations.png").is_file()
    assert meanings.about("test/code_spread") == "largest deviation of a unit over the smallest, ratio"
    page = (tmp_path / "report.html").read_text()
    assert "largest deviation of a unit over the smallest" in page
    assert "deviations" in page


def test_a_use_that_cannot_be_written_costs_no_results(monkeypatch, archive, tmp_path, capfd):
    uneven = Result({"test/x": 1.0}, {"uneven": {"a": [1, 2], "b": [1]}})
    monkeypatch.setitem(USES, "uneven", Use(lambda trained, data: uneven, {}))
    found = run_lib.run(small(archive, train__epochs=1, uses__run=("uneven",)), tmp_path)
    assert "test/loss" in found
    assert "test/x" not in found
    assert "use uneven: left out: ValueError" in capfd.readouterr().out


@pytest.mark.slow
def test_method(register, archive, tmp_path):
    register("method")
    config = quick(archive, method__name="alternate", method__alternate__rate=0.5)
    _, model = run(config, tmp_path)
    lines = [line for line in metrics(tmp_path) if line["split"] == "train"]
    assert all(0 < line["encode_loss"] < line["loss"] for line in lines)  # at the decoder's new parameters
    before = trainer(config).init().params
    for part in ("encoder", "decoder"):
        assert not np.array_equal(before[part]["layers_0"]["kernel"], model.params[part]["layers_0"]["kernel"])
    with pytest.raises(InputError) as error:
        check(small(method__name="alternate", model__bottleneck__name="gaussian", objective__likelihood="gaussian"))
    one_line(error, "config.model.bottleneck.name = 'gaussian': must be identity or topk")


@pytest.mark.slow
def test_a_method_of_two_phases_resumes_to_the_same_parameters(register, archive, tmp_path):
    register("method")
    _, whole = run(quick(archive, method__name="alternate", train__epochs=4), tmp_path / "whole")
    for epochs in (2, 4):
        _, parts = run(quick(archive, method__name="alternate", train__epochs=epochs), tmp_path / "parts")
    assert_equal(whole.params, parts.params)


def test_source(register, tmp_path):
    register("source")
    _, model = run(quick("bars:4", data__bar_probability=0.4), tmp_path)
    assert model.spec.x.shape == (4, 4, 1)
    for text, message in {
        "bars": "config.data.source = 'bars': must be written bars:SIZE",
        "bars:x": "config.data.source = 'bars:x': needs a size of at least 2 pixels",
        "rings": "must be one of digits, ",
    }.items():
        with pytest.raises(InputError) as error:
            trainer(small(text))
        one_line(error, message)


@pytest.mark.slow
def test_all_parts_at_once(register, tmp_path):
    for part in PARTS:
        register(part)
    config = small(
        "bars:5",
        pair__name="jitter",
        model__name="residual",
        model__bottleneck__name="scaled",
        objective__elastic__weight=0.01,
        uses__run=("spread", "prior"),
        figures__enabled=True,
    )
    found, _ = run(config, tmp_path)
    for name in ("test/elastic", "test/scale_mean", "test/clean/elastic", "test/code_spread", "prior/mmd"):
        assert np.isfinite(found[name])
