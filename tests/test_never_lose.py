"""A figure, a use or a page that fails never loses the results: every shipped config on data of many kinds."""

import json

import numpy as np
import pytest

from aejax import run
from aejax.data import sources
from aejax.errors import InputError
from aejax.page import figures, report
from aejax.uses import USES
from aejax.uses.probe import measure as probe
from common import ALIKE, CONFIGS, change, get_config, images, results, small, table

WIDTH = 6
NAMES = [path.stem for path in CONFIGS if path.stem not in ALIKE]


def labels(kind, n):
    classes = {"one class": np.zeros(n, int), "rare": (np.arange(n) == 0).astype(int), "usual": np.arange(n) % 3}
    return classes[kind]


TABLES = {
    "wide code": {"model__bottleneck__size": WIDTH + 2},
    "equal code": {"model__bottleneck__size": WIDTH},
    "one column": {"columns": 1},
    "one class": {"y": "one class"},
    "a class of one": {"y": "rare"},
    "no labels": {"y": None},
    "labels in training alone": {"y": "usual", "split": "train"},
    "labels in test alone": {"y": "usual", "split": "test"},
    "three test rows": {"y": "usual", "test": 3},
    "constant column": {"constant": True},
    "zeros": {"zeros": True},
}
IMAGES = {"one channel": (27, 31, 1), "three channels": (27, 31, 3), "five channels": (27, 31, 5)}


def arrays(x, y=None, split="", test=20, **_):
    raw = {"x_train": x[:-test], "x_test": x[-test:]}
    if y is not None:
        y = labels(y, len(x))
        raw |= {"y_train": y[:-test], "y_test": y[-test:]}
    return {name: value for name, value in raw.items() if not name.startswith("y") or name.endswith(split)}


def made(tmp_path, name, kind):
    """The source and the further fields of a kind of data."""
    if kind in IMAGES:
        raw, fields = arrays(images(60, IMAGES[kind])), {}
    else:
        fields = dict(TABLES[kind])
        x = table(60, fields.get("columns", WIDTH))[:, : fields.get("columns", WIDTH)]
        x[:, -1] = 5.0 if fields.get("constant") else x[:, -1]
        raw = arrays(x * (not fields.get("zeros")), **fields)
        fields = {key: value for key, value in fields.items() if "__" in key}
    np.savez(tmp_path / "x.npz", **raw)
    config = get_config(name, f"npz:{tmp_path / 'x.npz'}")
    image = kind in IMAGES
    if config.pretrain.widths or name in ("finetune", "stacked_rbm"):
        return None
    fields |= {"train__epochs": 1, "train__batch_size": 8, "train__progress": False, "figures__grid": 3}
    if not image:
        likelihood = "gaussian" if config.model.bottleneck.name == "gaussian" else "squared_error"
        fields |= {"data__binarize": "none", "objective__likelihood": likelihood, "pair__input": "identity"}
    with config.unlocked():
        return change(config, **fields)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_config_on_data_of_many_kinds(tmp_path, name):
    """Results are written, or the config is refused in one line before anything is.

    ae on every kind, each of the others on one kind in turn. The uses take turns, too: a run has a third of them.
    """
    trained, refused = 0, []
    kinds, place = [*TABLES, *IMAGES], NAMES.index(name)
    chosen = kinds if name == "ae" else [kinds[place % len(kinds)]]
    for i, kind in enumerate(chosen):
        config = made(tmp_path, name, kind)
        if config is None:
            continue
        config.uses.run = tuple(use for j, use in enumerate(USES) if (j + place + i) % 3 == 0)
        path = tmp_path / f"run{i}"
        try:
            found = run.run(config, path)
        except InputError as error:
            refused.append((kind, str(error), path.exists()))
            continue
        trained += 1
        assert np.isfinite(found["test/loss"]), kind
        assert json.loads((path / "results.json").read_text()) == found
        assert (path / "report.html").is_file(), kind
    print(f"{name}: {trained} trained, {len(refused)} refused: {refused}")
    assert not [line for line in refused if "\n" in line[1] or line[2]]


def broken(*_, **__):
    raise RuntimeError("broken")


def test_a_use_that_fails_is_left_out_with_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(USES, "probe", USES["probe"]._replace(measure=lambda trained, data: broken()))
    monkeypatch.setattr(probe, "measure", broken)
    run.run(small(uses__run=("probe", "reconstruction")), tmp_path)
    assert "use probe: left out: RuntimeError: broken" in capsys.readouterr().out
    assert "test/pca_squared_error" in results(tmp_path)


@pytest.mark.slow
def test_a_figure_that_fails_is_left_out_with_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figures, "code_maps", broken)
    run.run(small(figures__enabled=True), tmp_path)
    assert "figure codes: left out: RuntimeError: broken" in capsys.readouterr().out
    assert (tmp_path / "figures" / "reconstructions.png").is_file()
    assert (tmp_path / "report.html").is_file()


@pytest.mark.slow
def test_a_page_that_fails_is_left_out_and_drawn_by_the_same_command(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(report, "page", broken)
        first = run.run(small(figures__enabled=True), tmp_path)
    assert "page: left out: RuntimeError: broken" in capsys.readouterr().out
    assert not (tmp_path / "report.html").exists()
    assert run.run(small(figures__enabled=True), tmp_path) == first
    assert (tmp_path / "report.html").is_file()


def test_a_table_as_wide_as_the_code_has_its_figure(tmp_path):
    np.savez(tmp_path / "x.npz", x=table(40, 3))
    run.run(small(f"npz:{tmp_path / 'x.npz'}", figures__enabled=True), tmp_path / "run")
    assert (tmp_path / "run" / "figures" / "reconstructions.png").is_file()
    assert sources.load(small(f"npz:{tmp_path / 'x.npz'}")).spec.x.shape == (3,)
