"""Classifiers from few labels."""

import json

import numpy as np
import pytest

import aejax
from aejax import run as run_lib
from aejax.config import stages
from aejax.data import sources
from aejax.storage import run_dir
from aejax.training import few_labels
from aejax.training.population import Group
from common import change, images, one_line, results, small

LABELS = np.arange(100) % 3


def config(**fields):
    own = {
        "finetune__name": "classifier",
        "data__labeled_examples": (12, 24),
        "data__label_draws": 2,
        "few_labels__learning_rates": (1e-2, 1e-4),
        "few_labels__dropouts": (0.0,),
        "few_labels__folds": 3,
        "train__batch_size": 8,
        "train__epochs": 1,
    }
    return small(**(own | fields))


def test_draws_are_balanced_repeatable_and_differ():
    labels = np.where(np.arange(1000) % 9 == 0, -1, np.arange(1000) % 10)
    rows = few_labels.draw(labels, 54, 0, 0)
    assert len(set(rows.tolist())) == 54
    assert np.bincount(labels[rows]).tolist() == [6, 6, 6, 6, 5, 5, 5, 5, 5, 5]
    np.testing.assert_array_equal(rows, few_labels.draw(labels, 54, 0, 0))
    for other in ((1, 0), (0, 1)):
        assert set(rows.tolist()) != set(few_labels.draw(labels, 54, *other).tolist())


@pytest.mark.slow
def test_both_starts_are_reported_and_a_stopped_run_goes_on(tmp_path, monkeypatch):
    data = sources.from_array(images(), config(), LABELS)
    run_lib.run(small(), tmp_path / "start", data)
    fields = {"init_from": str(tmp_path / "start"), "data__labeled_examples": (12,)}
    found = run_lib.run(config(**fields), tmp_path / "a", data)
    draws = json.loads((tmp_path / "a" / run_dir.FEW_LABELS).read_text())
    assert set(draws) == {f"12/{k}/{name}" for k in (0, 1) for name in ("pretrained", "random")}
    for name in ("pretrained", "random"):
        errors = [draws[f"12/{k}/{name}"]["error"] for k in (0, 1)]
        assert found[f"{name}_12/error"] == pytest.approx(np.mean(errors))
        assert found[f"{name}_12/error_deviation"] == pytest.approx(np.std(errors))
    assert found["seconds"] == sum(draw["seconds"] for draw in draws.values()) > 0
    assert {draw["learning_rate"] for draw in draws.values()} <= {1e-2, 1e-4}

    evaluated = []
    original = Group.evaluate

    def evaluate(self, state, split):
        evaluated.append(split)
        if evaluated.count("test") == 3:
            raise KeyboardInterrupt
        return original(self, state, split)

    monkeypatch.setattr(Group, "evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        run_lib.run(config(**fields), tmp_path / "b", data)
    assert len(json.loads((tmp_path / "b" / run_dir.FEW_LABELS).read_text())) == 2
    monkeypatch.setattr(Group, "evaluate", original)
    run_lib.run(config(**fields), tmp_path / "b", data)
    assert results(tmp_path / "a") == results(tmp_path / "b")
    # Trained longer, every draw is another one.
    longer = run_lib.run(config(**fields, train__epochs=2), tmp_path / "a", data)
    again = json.loads((tmp_path / "a" / run_dir.FEW_LABELS).read_text())
    assert longer["seconds"] == sum(draw["seconds"] for draw in again.values())
    assert all(again[key]["seconds"] != draws[key]["seconds"] for key in draws)


def test_only_the_drawn_labels_are_trained_on(tmp_path, monkeypatch):
    """The held-out fold and the rest of the training split are not among the rows of a training."""
    seen = []
    original = Group.put

    def put(self, data, rows, held):
        for one, own, left_out in zip(data, rows, held, strict=True):
            seen.append((one.train["x"][own], one.validation["x"][left_out]))
        original(self, data, rows, held)

    monkeypatch.setattr(Group, "put", put)
    own = config(data__labeled_examples=(12,), data__label_draws=1, few_labels__learning_rates=(1e-2,))
    data = sources.from_array(images(), own, LABELS)
    run_lib.run(own, tmp_path / "a", data)
    rows = few_labels.draw(data.train["y"], 12, 0, 0)
    drawn = {data.train["x"][row].tobytes() for row in rows}
    assert len(seen) == 4  # three folds, and all
    held = []
    for x, left_out in seen[:3]:
        assert len(x) == 8
        assert {row.tobytes() for row in x} | {row.tobytes() for row in left_out} == drawn
        assert not {row.tobytes() for row in x} & {row.tobytes() for row in left_out}
        held.extend(row.tobytes() for row in left_out)
    assert set(held) == drawn
    assert {row.tobytes() for row in seen[3][0]} == drawn


@pytest.mark.slow
def test_stages_are_a_start_too(tmp_path):
    sigmoid = {"model__encoder__activation": "sigmoid", "model__code_activation": "sigmoid"}
    own = config(data__labeled_examples=(12,), data__label_draws=1, **sigmoid).copy_and_resolve_references()
    with own.unlocked():
        stages(own, 2)
    own = change(
        own, model__encoder__widths=(6,), pretrain__widths=(6, 4), pretrain__default__epochs=1,
        pretrain__default__batch_size=16,
    )  # fmt: skip
    found = run_lib.run(own, tmp_path / "a", sources.from_array(images(), own, LABELS))
    assert {"pretrained_12/error", "random_12/error", "stage_1/reconstruction"} <= set(found)


@pytest.mark.slow
def test_a_run_whose_choice_is_a_frozen_encoder_is_loaded(tmp_path):
    data = sources.from_array(images(), config(), LABELS)
    run_lib.run(small(), tmp_path / "start", data)
    frozen = {"data__label_draws": 1, "few_labels__freezes": (True,), "init_from": str(tmp_path / "start")}
    run_lib.run(config(data__labeled_examples=(12,), **frozen), tmp_path / "a", data)
    assert np.isfinite(aejax.load(tmp_path / "a").classify(images())).all()


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"data__labeled_examples": (12, 90)}, ["data.labeled_examples = 90", "at most 78, 26 for each"]),
        ({"data__labeled_examples": (2,)}, ["data.labeled_examples = 2", "3 folds"]),
        ({"data__labeled_examples": (9,)}, ["data.labeled_examples = 9", "batch of 8"]),
        ({"finetune__name": "autoencoder"}, ["data.labeled_examples", "classifier"]),
        ({"few_labels__learning_rates": ()}, ["few_labels.learning_rates", "must hold at least one value"]),
        ({"few_labels__dropouts": (1.0,)}, ["few_labels.dropouts", "[0, 1)"]),
        ({"few_labels__freezes": (False, True)}, ["few_labels.freezes = (False, True)", "config.init_from"]),
        ({"data__labeled_examples": (12, 12)}, ["data.labeled_examples = (12, 12)", "differ"]),
        ({"few_labels__folds": 1}, ["few_labels.folds", "at least 2"]),
    ],
)
def test_bad_fields_are_one_line(tmp_path, fields, parts):
    own = config(**fields)
    with pytest.raises(ValueError, match="config") as error:
        run_lib.run(own, tmp_path / "a", sources.from_array(images(), own, LABELS))
    one_line(error, *parts)
    assert not (tmp_path / "a").exists()
