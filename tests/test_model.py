"""The front door in Python: fit, load, save, figures, and how a model shows itself."""

import pickle
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

import aejax
from aejax import config as config_lib
from aejax import recipe
from aejax.data import sources
from aejax.errors import InputError
from common import images, one_line, small, table


@pytest.fixture(scope="module")
def model():
    return aejax.fit(images(), small(name="mine", train__log_steps=1), y=np.arange(100) % 2)


def test_shows_itself(model):
    lines = repr(model).splitlines()
    assert lines[0] == "mine, a trained model"
    assert "  data: 80 train, 20 test images of 6x5x1; 2 classes" in lines
    assert f"  parameters: {model.parameters:,}" in lines
    assert any(line.startswith("  test/loss: ") for line in lines)
    for shown in (model._repr_html_(), model.spec._repr_html_(), config_lib.shipped("vae")._repr_html_()):
        assert shown.startswith("<table>")
    assert "gaussian" in config_lib.shipped("vae")._repr_html_()
    assert "  model.bottleneck.name: gaussian" in repr(config_lib.shipped("vae")).splitlines()
    steps = model.history["train/step"]
    assert len(steps) == len(model.history["train/loss"]) > 1
    assert (np.diff(steps) > 0).all()


def test_is_pickled(model):
    copy = pickle.loads(pickle.dumps(model))
    assert repr(copy) == repr(model)
    np.testing.assert_array_equal(copy.encode(images(9, seed=1)), model.encode(images(9, seed=1)))
    np.testing.assert_array_equal(copy.history["train/loss"], model.history["train/loss"])
    with pytest.raises(InputError) as error:
        copy.figure("codes")  # its data were an array, and are not pickled
    one_line(error, "array in memory")


def test_names_no_folder_that_is_gone(capsys):
    aejax.fit(images(), small(train__epochs=1))
    assert "run directory" not in capsys.readouterr().out


def test_figures_are_figures(model):
    before = "matplotlib.pyplot" in sys.modules
    figure = model.figure("codes")
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert ("matplotlib.pyplot" in sys.modules) == before
    with pytest.raises(InputError) as error:
        model.figure("code")
    one_line(error, "figure 'code'", "codes", "reconstructions", "loss")


def test_is_saved_and_loaded(model, tmp_path):
    model.save(tmp_path / "a" / "b")
    loaded = aejax.load(tmp_path / "a" / "b")
    assert repr(loaded) == repr(model)
    np.testing.assert_array_equal(loaded.encode(images()), model.encode(images()))
    assert loaded.history.keys() == model.history.keys()
    with pytest.raises(InputError) as error:
        model.save(tmp_path / "a")
    one_line(error, "exists")


def test_a_saved_model_has_no_state_to_go_on_from(model, tmp_path):
    model.save(tmp_path / "run")
    config = small(name="mine", train__log_steps=1, train__epochs=9)
    with pytest.raises(InputError) as error:
        aejax.fit(images(), config, y=np.arange(100) % 2, workdir=tmp_path / "run")
    one_line(error, "optimiser's state", "init_from")
    assert aejax.load(tmp_path / "run").results == model.results


def test_fields_of_the_config_are_arguments():
    x = table()
    x[3, 1] = np.nan
    model = aejax.fit(x, data__missing="mask", train__steps=2, model__encoder__widths=(4,))
    assert (model.config.data.missing, model.config.train.steps, model.config.model.encoder.widths) == ("mask", 2, (4,))
    assert model.config.objective.likelihood == "squared_error"  # of the recipe for tables
    with pytest.raises(InputError) as error:
        aejax.fit(x, data__mising="mask")
    one_line(error, "data__mising", "data__missing")


def test_a_config_for_the_kind_of_data():
    def suited(x):
        return recipe.suited(sources.from_array(x, config_lib.default()).spec)

    assert suited(table(n=40)).model.bottleneck.size == table().shape[1] // 2
    assert suited(images(40, (8, 8))).model.name == "mlp"
    assert suited(images(40, (64, 64))).model.name == "conv"
    assert suited(["a word and a word", "another word"] * 20).objective.likelihood == "categorical"


@pytest.mark.slow
def test_without_a_config_it_is_better_than_the_mean():
    x = table(n=200).astype(np.float64)
    model = aejax.fit(x)
    residual = ((model.reconstruct(x) - x) ** 2).sum(1).mean()
    assert residual < 0.5 * ((x - x.mean(0)) ** 2).sum(1).mean()
