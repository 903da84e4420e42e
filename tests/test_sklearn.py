import pickle

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import aejax
from aejax import config as config_lib
from aejax import run as run_lib
from aejax.data import dataset
from aejax.errors import InputError
from aejax.sklearn import Autoencoder
from common import ROOT, images, one_line, small, table

TINY = {"model__encoder__widths": (), "model__bottleneck__size": 2, "train__epochs": 2}

# Checks of scikit-learn that do not apply, and why.
EXPECTED = {
    "check_do_not_raise_errors_in_init_or_set_params": (
        "passes `overrides`, the name of **overrides, as a parameter; a name that is no field is refused at once, as "
        "Python refuses an unknown argument"
    ),
}


@pytest.mark.slow  # about 50 fits, each compiled
@parametrize_with_checks([Autoencoder(**TINY)], expected_failed_checks=lambda estimator: EXPECTED)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def fitted():
    return Autoencoder(**TINY).fit(table())


def test_it_is_the_model_of_aejax(fitted):
    x = table(20, seed=3)
    np.testing.assert_array_equal(fitted.transform(x), fitted.model_.encode(x))
    np.testing.assert_array_equal(fitted.score_samples(x), -fitted.model_.score(x))
    np.testing.assert_array_equal(fitted.inverse_transform(fitted.transform(x)), fitted.model_.reconstruct(x))
    assert fitted.score(x) == pytest.approx(fitted.score_samples(x).mean())
    assert fitted.transform(x).dtype == np.float32
    # All rows are trained on: the statistics of the columns are theirs.
    np.testing.assert_allclose(fitted.model_.spec.x.mean, table().mean(0))
    assert fitted.model_.spec.train == 100
    assert fitted.n_iter_ == 2
    assert fitted.loss_ == fitted.loss_curve_[-1]
    assert list(fitted.get_feature_names_out()) == ["autoencoder0", "autoencoder1"]


@pytest.mark.slow
def test_the_same_parameters_as_the_loop_of_aejax(tmp_path):
    """`aejax.run.run` on the same splits gives the same parameters, bit for bit."""
    config, x = small(train__batch_size=32), table()
    data = dataset.build({"x_train": x, "x_test": x[:1]}, config)
    run_lib.run(config, tmp_path / "run", data)
    np.testing.assert_array_equal(Autoencoder(config).fit(x).transform(x), aejax.load(tmp_path / "run").encode(x))


def test_a_higher_score_is_more_normal():
    x = table(200)
    estimator = Autoencoder(**TINY | {"train__epochs": 50, "optim__learning_rate": 1e-2}).fit(x)
    strange = x + 30 * np.random.default_rng(0).standard_normal(x.shape)
    assert estimator.score(x) > estimator.score(strange)
    assert estimator.loss_curve_[0] > estimator.loss_


def test_parameters(tmp_path):
    estimator = Autoencoder(train__epochs=3)
    assert estimator.get_params() == {"config": None, "train__epochs": 3}
    assert repr(estimator) == "Autoencoder(train__epochs=3)"
    assert estimator.set_params(seed=np.int64(1), config="vae") is estimator
    copy = clone(estimator)
    assert copy.get_params() == {"config": "vae", "train__epochs": 3, "seed": 1}
    copy.set_params(train__epochs=4)
    assert estimator.get_params()["train__epochs"] == 3
    for config in ("vae", str(ROOT / "configs" / "vae.py"), ROOT / "configs" / "vae.py", config_lib.shipped("vae")):
        made = copy.set_params(config=config)._config()
        assert (made.name, made.train.epochs, made.seed) == ("vae", 4, 1)


@pytest.mark.slow
def test_pipeline_and_grid():
    x = table(90)
    pipeline = make_pipeline(MinMaxScaler(), Autoencoder(**TINY))
    grid = GridSearchCV(pipeline, {"autoencoder__model__bottleneck__size": [1, 5], "autoencoder__seed": [1]}, cv=2)
    grid.fit(x)
    best = grid.best_estimator_
    assert set(grid.best_params_) == {"autoencoder__model__bottleneck__size", "autoencoder__seed"}
    codes = best.transform(x)
    assert codes.shape == (90, grid.best_params_["autoencoder__model__bottleneck__size"])
    assert best.inverse_transform(codes).shape == x.shape
    assert np.isfinite(grid.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("config", [None, small()], ids=["default", "ConfigDict"])
def test_pickle(config):
    x = table(20, seed=3)
    estimator = Autoencoder(config, **TINY)
    assert pickle.loads(pickle.dumps(estimator)).get_params().keys() == estimator.get_params().keys()
    estimator.fit(table())
    loaded = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(loaded.transform(x), estimator.transform(x))
    np.testing.assert_array_equal(loaded.score_samples(x), estimator.score_samples(x))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_images(shape):
    x = images(60, shape)
    estimator = Autoencoder(**TINY, objective__likelihood="bernoulli").fit(x)
    codes = estimator.transform(x)
    assert codes.shape == (60, 2)
    assert estimator.n_features_in_ == np.prod(shape)
    means = estimator.inverse_transform(codes)
    assert means.shape == x.shape
    assert 0 <= means.min() <= means.max() <= 1
    with pytest.raises(InputError):
        estimator.transform(x[:, :4])
    with pytest.raises(InputError) as error:
        estimator.transform(sparse.csr_array((3, estimator.n_features_in_)))
    one_line(error, f"found shape (3, {estimator.n_features_in_})")


@pytest.mark.slow
def test_a_code_that_is_a_map_lies_flat():
    x = images(60, (6, 5))
    estimator = Autoencoder("conv", train__epochs=1, model__conv__channels=(2, 3)).fit(x)
    codes = estimator.transform(x)
    assert codes.shape == (60, 2 * 2 * 3)
    assert estimator.inverse_transform(codes).shape == x.shape


@pytest.mark.slow
def test_sparse_rows():
    """Counts: fitted as the same numbers are that are not standardised, and dense rows give the same."""
    x = np.random.default_rng(0).poisson(0.3, (60, 7)).astype(np.float32)
    fitted = Autoencoder(**TINY).fit(sparse.coo_array(x))
    assert fitted.model_.spec.x.sparse
    dense = Autoencoder(**TINY, data__standardize=False).fit(x)
    for estimator in (fitted, dense):
        for rows in (x, sparse.csr_array(x), sparse.csc_matrix(x)):
            np.testing.assert_allclose(estimator.transform(rows), dense.transform(x), rtol=1e-5)
            np.testing.assert_allclose(estimator.score_samples(rows), dense.score_samples(x), rtol=1e-5)
    codes = dense.transform(x)
    means = fitted.inverse_transform(sparse.coo_array(codes))
    np.testing.assert_allclose(means, dense.inverse_transform(codes), rtol=1e-5)
    assert means.shape == x.shape


@pytest.mark.slow
def test_words_in_a_pipeline():
    texts = [" ".join(words) for words in np.random.default_rng(0).choice(["one", "two", "three", "four"], (40, 6))]
    counted = Autoencoder(**TINY, objective__likelihood="categorical", pair__input="log")
    pipeline = make_pipeline(CountVectorizer(), counted).fit(texts)
    assert pipeline.transform(texts).shape == (40, 2)
    assert pipeline.score_samples(texts).max() < 0  # log-likelihoods of words


def test_names_of_columns():
    frame = pd.DataFrame(table(), columns=list("abcdefg"))
    estimator = Autoencoder(**TINY).set_output(transform="pandas").fit(frame)
    assert list(estimator.feature_names_in_) == list("abcdefg")
    assert list(estimator.transform(frame).columns) == ["autoencoder0", "autoencoder1"]
    with pytest.raises(ValueError, match="feature names"):
        estimator.transform(frame[list("gfedcba")])


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"config": "no_such"}, ["no_such", "vae"]),
        ({"config": 3}, ["config = 3", "ConfigDict"]),
        ({"train__epochs": "many"}, ["config.train.epochs", "many"]),
        ({"train__epochs": 0}, ["config.train.epochs", "0"]),
        ({"config": "vae"}, ["config.objective.likelihood", "table"]),
        ({"model__name": "conv"}, ["config.model.name", "images"]),
        ({"config": "stacked"}, ["config.pretrain.widths = (200, 200)", "aejax.main"]),
        ({"finetune__name": "classifier"}, ["config.finetune.name", "'autoencoder'"]),
    ],
)
def test_bad_parameters_at_fit(parameters, names):
    with pytest.raises(InputError) as error:
        Autoencoder(**parameters).fit(table())
    one_line(error, *names)


def test_bad_names():
    for refused in (lambda: Autoencoder(train__epoch=3), lambda: Autoencoder().set_params(train__epoch=3)):
        with pytest.raises(InputError) as error:
            refused()
        one_line(error, "train__epoch:", "did you mean train__epochs?")


def test_bad_codes(fitted):
    with pytest.raises(InputError) as error:
        fitted.inverse_transform(np.zeros((3, 5)))
    one_line(error, "5", "2")
