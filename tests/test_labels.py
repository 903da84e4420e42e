"""Labels are optional: an unsupervised run takes any or none."""

import json

import numpy as np
import pytest

from aejax import run
from aejax.data import sources, stream
from aejax.errors import InputError
from common import one_line, results, small, table

X = table(60)


def save(tmp_path, **arrays):
    np.savez(tmp_path / "x.npz", **arrays)
    return f"npz:{tmp_path / 'x.npz'}"


@pytest.mark.slow
def test_a_class_of_the_test_split_alone_is_taken(tmp_path, capsys):
    arrays = {"x_train": X[:40], "y_train": np.zeros(40, int), "x_test": X[40:], "y_test": np.arange(20) % 2}
    source = save(tmp_path, **arrays)
    run.run(small(source, uses__run=("reconstruction", "probe")), tmp_path / "run")
    assert "use probe: left out: needs labels of at least 2 classes in the train split" in capsys.readouterr().out
    assert "test/squared_error" in results(tmp_path / "run")
    classifier = small(source, finetune__name="classifier", model__bottleneck__size=3)
    run.run(classifier, tmp_path / "classifier")  # two classes are known, one of them without training examples


@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_of_one_split_alone_are_taken(tmp_path, capsys, split):
    arrays = {"x_train": X[:40], "x_test": X[40:], f"y_{split}": np.arange(40 if split == "train" else 20) % 3}
    run.run(small(save(tmp_path, **arrays), uses__run=("probe", "retrieval")), tmp_path / "run")
    out = capsys.readouterr().out
    assert f"no labels in the {'test' if split == 'train' else 'training'} split" in out
    assert "use probe: left out" in out


def test_minus_one_is_said():
    data = sources.from_array(X, small(), np.where(np.arange(60) % 2, 1, -1))
    assert data.spec.classes == ("-1", "1")
    assert "labels -1 and 1 are two classes" in data.notes
    data = sources.from_array(X, small(), np.arange(60) % 3 - 1)
    assert data.spec.classes == ("0", "1")
    assert "20 of 60 examples have label -1, no label" in data.notes


@pytest.mark.slow
@pytest.mark.parametrize(
    "y", [np.zeros(60), np.arange(60) == 0, np.arange(60), np.full(60, -1), (np.arange(60) % 2)[:, None]]
)
def test_any_labels_train(tmp_path, y):
    config = small(save(tmp_path, x=X, y=y), figures__enabled=True, train__epochs=1)
    found = run.run(config, tmp_path / "run")
    assert np.isfinite(found["test/loss"])


def test_training_is_restricted_to_classes(tmp_path):
    y = np.array(["normal", "normal", "broken"] * 20)
    source = save(tmp_path, x_train=X[:45], y_train=y[:45], x_test=X[45:], y_test=y[45:])
    config = small(source, data__train_labels=("normal",), data__validation_fraction=0.2, train__batch_size=8)
    data = sources.load(config)
    assert data.spec.classes == ("broken", "normal")
    assert (data.spec.train, data.spec.validation, data.spec.test) == (24, 6, 15)
    assert (data.train["y"] == 1).all()
    assert (data.validation["y"] == 1).all()
    assert "trained on the classes normal alone: 30 of 45 training examples" in data.notes
    with pytest.raises(InputError) as error:
        sources.load(small(source, data__train_labels=("odd",)))
    one_line(error, "data.train_labels", "'odd'", "broken, normal")


@pytest.mark.parametrize("own_test", [False, True])
def test_splits_of_a_run_on_some_classes_are_read_again(tmp_path, own_test):
    y = np.array(["normal", "normal", "broken"] * 20)
    arrays = {"x": X, "y": y}
    if own_test:
        arrays = {"x_train": X[:45], "y_train": y[:45], "x_test": X[45:], "y_test": y[45:]}
    source = save(tmp_path, **arrays)
    config = small(source, data__train_labels=("normal",), data__validation_fraction=0.2)
    data = sources.load(config)

    def read(split):
        batches = list(stream.read(source, config, data.spec, data.spec.x.apply, split).batches)
        return np.concatenate([batch.ids for batch in batches]), np.concatenate([batch.x for batch in batches])

    found = {split: read(split) for split in ("train", "validation", "test")}
    for split, (ids, x) in found.items():
        np.testing.assert_array_equal(x, getattr(data, split)["x"])
        np.testing.assert_array_equal(y[ids], np.array(data.spec.classes)[getattr(data, split)["y"]])
    assert len(set(np.concatenate([ids for ids, _ in found.values()]))) == data.spec.train + data.spec.validation + (
        data.spec.test
    )
    np.testing.assert_array_equal(read("all")[0], range(60))
    arrays["y" if "y" in arrays else "y_train"][0] = "broken"
    save(tmp_path, **arrays)
    with pytest.raises(InputError) as error:
        read("train")
    one_line(error, "has changed", "'train'")


def test_what_was_read_is_said_before_training(tmp_path, capsys):
    run.run(small(save(tmp_path, x=X)), tmp_path / "run")
    assert "data: 48 train, 12 test rows of 7 columns; no labels" in capsys.readouterr().out


def test_upper_case_names_and_matlab_are_read(tmp_path):
    from scipy import io

    np.savez(tmp_path / "X.npz", X=X, y=np.arange(60)[:, None] % 2)
    io.savemat(tmp_path / "x.mat", {"X": X, "y": np.arange(60)[:, None] % 2})
    first, second = (
        sources.load(small(f"{name}:{tmp_path / file}")) for name, file in (("npz", "X.npz"), ("mat", "x.mat"))
    )
    np.testing.assert_array_equal(first.train["x"], second.train["x"])
    np.testing.assert_array_equal(first.test["y"], second.test["y"])
    np.savez(tmp_path / "o.npz", x=np.array([[1, "a"]], object))
    with pytest.raises(InputError) as error:
        sources.load(small(f"npz:{tmp_path / 'o.npz'}"))
    one_line(error, "never unpickled")


def test_channels_first_is_refused_with_the_transpose():
    with pytest.raises(InputError) as error:
        sources.from_array(np.zeros((10, 3, 32, 32), np.uint8), small())
    one_line(error, "x.transpose(0, 2, 3, 1)")


def test_several_problems_of_a_variational_table_are_said_at_once(tmp_path):
    config = small(save(tmp_path, x=X), model__bottleneck__name="gaussian", objective__likelihood="bernoulli",
                   data__binarize="dynamic")  # fmt: skip
    with pytest.raises(InputError) as error:
        run.run(config, tmp_path / "run")
    one_line(error, "2 problems", "objective.likelihood", "take gaussian", "data.binarize")
    assert not (tmp_path / "run").exists()


def test_data_json_has_the_notes_fields(tmp_path):
    run.run(small(save(tmp_path, x=X)), tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "data.json").read_text())
    assert stored["format"] == 2
    assert set(stored["fields"]) == {"x"}
