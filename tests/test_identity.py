"""Rows, files and columns keep their identity: an id in every output, columns by name, one value in any order."""

import dataclasses
import json
import types

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import aejax
from aejax import predict, prediction, run
from aejax.data import sources, stream
from aejax.errors import InputError
from aejax.sklearn import Autoencoder
from common import UNSET, one_line, small, table

NAMES = list("abcdefg")

# Flags of predict that a test does not set.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a CSV file with a column of ids, and the file's frame."""
    folder = tmp_path_factory.mktemp("identity")
    frame = pd.DataFrame(table(60), columns=NAMES).assign(id=[f"row {i}" for i in range(60)])
    frame.to_csv(folder / "t.csv", index=False)
    config = small(f"csv:{folder / 't.csv'}", data__id_column="id")
    run.run(config, folder / "run")
    return folder, frame


def outputs(folder, frame, suffix=".csv", what="scores"):
    """The output of predict for a frame, by id."""
    frame.to_csv(folder / "new.csv", index=False)
    model = aejax.load(folder / "run")
    rows = stream.read(f"csv:{folder / 'new.csv'}", model.config, model.spec, model.take)
    prediction.write(model, rows, what, folder / f"out{suffix}")
    return folder / f"out{suffix}"


def test_an_id_stands_first_in_every_output(trained):
    folder, frame = trained
    for what in ("codes", "scores", "reconstructions"):
        found = pd.read_csv(outputs(folder, frame, what=what))
        assert found.columns[0] == "id"
        assert found.id.tolist() == frame.id.tolist()
    found = pd.read_parquet(outputs(folder, frame, ".parquet"))
    assert found.id.tolist() == frame.id.tolist()
    with np.load(outputs(folder, frame, ".npz")) as archive:
        assert archive["id"].tolist() == frame.id.tolist()
    numbered = pd.read_csv(outputs(folder, frame.drop(columns="id")))
    assert numbered.columns[0] == "row"
    assert numbered.row.tolist() == list(range(60))


@pytest.mark.slow
def test_what_predict_met_is_said_once(tmp_path, monkeypatch, capsys):
    """Texts that the run does not know, in several batches of the streamed input; and an input without the ids."""
    frame = pd.DataFrame(table(60), columns=NAMES).assign(id=range(60), site=["east", "west", "north"] * 20)
    frame.to_csv(tmp_path / "t.csv", index=False)
    fields = {"data__id_column": "id", "data__categorical": "onehot", "data__missing": "mask"}
    run.run(small(f"csv:{tmp_path / 't.csv'}", **fields), tmp_path / "run")

    def said(frame, kind):
        frame.to_csv(tmp_path / "new.csv", index=False)
        frame.to_parquet(tmp_path / "new.parquet", row_group_size=7)
        given = {"workdir": tmp_path / "run", "input": f"{kind}:{tmp_path / 'new'}.{kind}", "n": None, "seed": 0}
        given |= {"output": tmp_path / "o.csv", "what": "codes", "split": "all", "checkpoint": "last"}
        monkeypatch.setattr(predict.flags, "FLAGS", types.SimpleNamespace(**UNSET | given))
        capsys.readouterr()
        predict.main()
        return capsys.readouterr().out.strip()

    changed = frame.replace({"site": {"east": "center"}}).drop(columns="id")
    changed.loc[1, "site"] = "far"
    changed.loc[2, "site"] = None
    for kind in ("csv", "parquet"):
        assert said(frame, kind).endswith("rows/s")
        assert said(changed, kind).endswith(
            "rows/s; rows are numbered: the input has no column id, the run's data.id_column; "
            "site: 21 rows hold 'center', 'far', unknown to the run; treated as an empty cell (data.missing=mask)"
        )


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_same_value_for_the_same_id_in_any_order(trained, count):
    """Through load, predict, the export's preparation and the estimator."""
    folder, frame = trained
    model = aejax.load(folder / "run")
    expected = pd.Series(model.score(frame), frame.id)
    estimator = Autoencoder(train__epochs=1, model__encoder__widths=(8,), train__progress=False).fit(frame[NAMES])
    samples = pd.Series(estimator.score_samples(frame[NAMES]), frame.id)
    random = np.random.default_rng(0)
    for i in range(count):
        mixed = frame.iloc[random.permutation(60)][random.permutation(frame.columns)]
        np.testing.assert_allclose(model.score(mixed), expected[mixed.id], rtol=1e-5)
        np.testing.assert_allclose(estimator.score_samples(mixed[NAMES]), samples[mixed.id], rtol=1e-5)
        if i % 10 == 0:
            found = pd.read_csv(outputs(folder, mixed)).set_index("id").scores
            np.testing.assert_allclose(found, expected[found.index], rtol=1e-4)


def test_columns_that_do_not_match_are_refused(trained):
    folder, frame = trained
    model = aejax.load(folder / "run")
    with pytest.raises(InputError) as error:
        model.encode(frame.drop(columns="c"))
    one_line(error, "no column 'c'")
    unnamed = aejax.fit(table(60), small())
    with pytest.raises(InputError) as error:
        unnamed.encode(frame[NAMES])
    one_line(error, "the run has none", ".to_numpy()")


def test_images_are_named_and_in_the_order_of_their_paths(tmp_path):
    for i, name in enumerate(["dog/a.png", "dog/3.png", "cat/2.png", "cat/10.png"]):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6), 40 * i, np.uint8)).save(tmp_path / "x" / name)
    config = small(f"images:{tmp_path / 'x'}", train__batch_size=2, data__test_fraction=0.5)
    run.run(config, tmp_path / "run")
    model = aejax.load(tmp_path / "run")
    rows = stream.read(config.data.source, model.config, model.spec, model.take)
    prediction.write(model, rows, "scores", tmp_path / "x.csv")
    found = pd.read_csv(tmp_path / "x.csv")
    assert found.file.tolist() == ["cat/10.png", "cat/2.png", "dog/3.png", "dog/a.png"]
    one = stream.read(f"images:{tmp_path / 'x/dog/a.png'}", model.config, model.spec, model.take)
    prediction.write(model, one, "scores", tmp_path / "one.csv")
    np.testing.assert_allclose(pd.read_csv(tmp_path / "one.csv").scores[0], found.scores[3], rtol=1e-5)


def test_splits_of_an_old_run_on_class_folders_are_refused(tmp_path):
    """Format 1 took images by their base names: its splits are others, and nothing may be tested on them silently."""
    for i in range(8):
        path = tmp_path / "x" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6), 20 * i, np.uint8)).save(path)
    config = small(f"images:{tmp_path / 'x'}", train__batch_size=2)
    run.run(config, tmp_path / "run")
    model = aejax.load(tmp_path / "run")
    old = dataclasses.replace(model.spec, format=1)
    with pytest.raises(InputError) as error:
        stream.read(config.data.source, model.config, old, model.take, "test")
    one_line(error, "--split=test", "another order", "--split=all")
    found = [id for batch in stream.read(config.data.source, model.config, old, model.take).batches for id in batch.ids]
    assert len(found) == 8
    one_class = small(f"images:{tmp_path / 'x/a'}", train__batch_size=2)  # whose order is the same
    few = dataclasses.replace(old, train=3, test=1)
    assert list(stream.read(one_class.data.source, one_class, few, model.take, "test").batches)
    stored = json.loads((tmp_path / "run" / "data.json").read_text())
    x, y = stored["fields"]["x"], stored["fields"]["y"]
    stored = {name: stored[name] for name in ("train", "validation", "test", "digest")}
    (tmp_path / "run" / "data.json").write_text(json.dumps(stored | x | {"classes": y["classes"]}))
    own = small(config.data.source, train__batch_size=2, init_from=str(tmp_path / "run"))
    with pytest.raises(InputError) as error:
        run.run(own, tmp_path / "new")
    one_line(error, "init_from", "another order")


def test_an_array_is_the_source_array(tmp_path):
    aejax.fit(table(60), small(figures__enabled=True), workdir=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["source"] == "array"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "model = aejax.fit(x, config)" in page
    assert "python -m aejax.main" not in page
    with pytest.raises(InputError) as error:
        sources.load(small("array"))
    one_line(error, "aejax.fit(x, config)")


@pytest.mark.slow
def test_series_of_texts_and_labels_are_taken():
    texts = pd.Series(["a cat sat", "a dog ran", "the cat ran"] * 20)
    config = small(objective__likelihood="categorical", data__vocabulary=5)
    model = aejax.fit(texts, config, y=pd.Series(["x", "y", "x"] * 20, dtype="category"))
    assert model.spec.classes == ("x", "y")
    np.testing.assert_array_equal(model.encode(texts[:3]), model.encode(texts[:3].tolist()))
