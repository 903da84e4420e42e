"""Empty cells and categories: prepared on the training split, and carried with the run."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import aejax
from aejax import export
from aejax.data import sources
from aejax.errors import InputError
from aejax.losses import likelihoods
from aejax.sklearn import Autoencoder
from aejax.uses.data import with_input
from common import one_line, small, trainer


def frame(n=80, seed=0):
    """Numbers, integers, truth values, categories and texts, each with gaps but the texts."""
    random = np.random.default_rng(seed)
    x = random.standard_normal(n)
    table = pd.DataFrame(
        {
            "number": x,
            "count": pd.array(random.integers(0, 9, n), dtype="Int64"),
            "flag": pd.array(x > 0, dtype="boolean"),
            "kind": pd.Categorical(np.where(x > 0.5, "high", np.where(x < -0.5, "low", "mid"))),
            "colour": random.choice(["red", "blue"], n),
        }
    )
    for column in ("number", "count", "flag", "kind"):
        table.loc[random.random(n) < 0.15, column] = None
    return table


def config(missing="mask", **fields):
    return small(data__missing=missing, data__categorical="onehot", **fields)


OUTPUTS = [
    "number",
    "count",
    "flag=false",
    "flag=true",
    "kind=high",
    "kind=low",
    "kind=mid",
    "colour=blue",
    "colour=red",
]


@pytest.mark.parametrize(
    "missing", ["mask", *(pytest.param(m, marks=pytest.mark.slow) for m in ("mean", "median", "indicator"))]
)
def test_a_table_of_every_kind_is_trained_and_used(missing):
    table = frame()
    model = aejax.fit(table, config(missing))
    extra = [f"{name} is empty" for name in ("number", "count", "flag", "kind")] if missing == "indicator" else []
    assert list(model.spec.x.outputs) == [*OUTPUTS, *extra]
    filled = model.reconstruct(table)
    assert np.isfinite(filled).all()
    assert np.isfinite(model.score(table)).all()
    np.testing.assert_allclose(filled[:, 4:7].sum(1), 1, rtol=1e-5)  # probabilities of the categories
    shuffled = table[table.columns[::-1]]
    np.testing.assert_array_equal(model.encode(shuffled), model.encode(table))


def test_fills_are_of_the_training_split():
    table = frame()
    data = sources.from_array(table, config("mean"))
    assert data.spec.x.fill[0] != pytest.approx(table.number.mean(), rel=1e-6)
    train = np.setdiff1d(np.arange(80), np.random.RandomState(0).permutation(80)[:16])
    assert data.spec.x.fill[0] == pytest.approx(table.number.iloc[train].mean())
    assert sources.from_array(table, config("median")).spec.x.fill[1] == table["count"].iloc[train].median()
    most = table.kind.iloc[train].value_counts().index[0]
    assert data.spec.x.categories["kind"][int(data.spec.x.fill[3])] == most


def test_standardised_columns_are_those_of_the_observed_cells():
    x = np.random.default_rng(0).standard_normal((60, 3)) * 5 + 2
    x[::7, 1] = np.nan
    data = sources.from_array(x, config())
    train = data.train["x"]
    np.testing.assert_allclose(np.nanmean(train, 0), 0, atol=1e-6)
    np.testing.assert_allclose(np.nanstd(train, 0), 1, atol=1e-5)
    assert np.isnan(train).any()


def test_masked_cells_have_no_part_in_the_loss():
    """Against NumPy: the squared error of the observed cells; and what stands in an empty cell changes nothing."""
    table = frame()[["number", "count"]]
    run = trainer(config(), table)
    state, batch = run.init(), run.batch(0)
    terms, made = run.experiment.objective.terms(
        state.params, state.variables, batch, key=jax.random.key(0), step=state.step, train=True
    )
    x = np.asarray(batch["x"])
    expected = np.nansum((x - np.asarray(made["mean"])) ** 2, axis=1)
    np.testing.assert_allclose(terms["reconstruction"], expected, rtol=1e-5)
    np.testing.assert_allclose(terms["squared_error"], expected, rtol=1e-5)
    gradient = jax.grad(
        lambda x: jnp.sum(
            run.experiment.objective.terms(
                state.params, state.variables, {"x": x}, key=jax.random.key(0), step=state.step
            )[0]["reconstruction"]
        )
    )(batch["x"])
    assert not np.asarray(gradient)[np.isnan(x)].any()


def test_denoising_weights_and_masks_multiply():
    x = np.random.default_rng(0).standard_normal((40, 3))
    x[3, 1] = np.nan
    fields = {"pair__name": "denoise", "pair__denoise__alpha": 2.0, "pair__denoise__beta": 0.5}
    run = trainer(config(**fields), x)
    batch = {"x": jnp.asarray(run.data.train["x"])}
    example = run.experiment.objective.examples(jax.random.key(0), batch)
    empty = np.isnan(np.asarray(batch["x"]))
    weight = np.broadcast_to(np.asarray(example.weight), empty.shape)
    assert (weight[empty] == 0).all()
    assert set(np.unique(weight[~empty])) == {0.5, 2.0}


def test_mixed_likelihood_agrees_with_numpy():
    random = np.random.default_rng(0)
    target, r = random.standard_normal((2, 5, 6)).astype(np.float32)
    target[:, 2:5] = np.eye(3)[random.integers(0, 3, 5)]
    weight = np.ones_like(target)
    weight[0, 2:5] = weight[1, 0] = 0
    mixed = likelihoods.mixed(likelihoods.LIKELIHOODS["gaussian"], [(2, 5)], 6)
    numbers = [0, 1, 5]
    gaussian = 0.5 * (target - r) ** 2 + 0.5 * np.log(2 * np.pi)
    shares = np.exp(r[:, 2:5]) / np.exp(r[:, 2:5]).sum(1, keepdims=True)
    expected = (gaussian * weight)[:, numbers].sum(1) - (weight[:, 2:5] * target[:, 2:5] * np.log(shares)).sum(1)
    np.testing.assert_allclose(mixed.term(target, r, weight), expected, rtol=1e-5)
    np.testing.assert_allclose(mixed.mean(jnp.asarray(r))[:, 2:5], shares, rtol=1e-5)
    np.testing.assert_array_equal(mixed.mean(jnp.asarray(r))[:, numbers], r[:, numbers])


@pytest.mark.slow
def test_the_export_and_predict_prepare_as_the_run(tmp_path):
    table = frame()
    model = aejax.fit(table, config("indicator"))
    call = jax.export.deserialize(bytearray(export.export(model, "score"))).call
    categories = model.spec.x.categories
    raw = np.column_stack(
        [
            pd.Categorical(table[name].astype(str).str.lower(), categories[name]).codes
            if name in categories
            else table[name].astype(float)
            for name in table
        ]
    ).astype(np.float32)
    raw[:, 2:] = np.where(raw[:, 2:] < 0, np.nan, raw[:, 2:])
    np.testing.assert_allclose(call(raw), model.score(table), rtol=1e-4, atol=1e-4)
    about = export.describe(model, "score")["input"]
    assert about["columns"] == list(table.columns)
    assert about["categories"]["kind"] == ["high", "low", "mid"]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda t: t.drop(columns="kind"), ["no column 'kind'"]),
        (lambda t: t.assign(colour="green"), ["row 0: column colour holds 'green'", "blue, red"]),
        (lambda t: t.assign(number=None), ["row 0: column number is empty", "data.missing"]),
    ],
)
def test_new_data_that_do_not_fit_are_refused(change, parts):
    table = frame().dropna()
    model = aejax.fit(table, config("error"))
    with pytest.raises(InputError) as error:
        model.encode(change(table))
    one_line(error, *parts)


def test_texts_are_refused_with_all_ways_out():
    with pytest.raises(InputError) as error:
        aejax.fit(frame().dropna(), small())
    one_line(
        error, "column kind holds", "categorical=onehot", "drop_columns=kind", "label_column=kind", "id_column=kind"
    )


def test_ids_and_numbers_with_another_decimal_sign_are_no_categories(tmp_path):
    lines = [f"m{i},{'ab'[i % 2]},{i % 21},{i}.5" for i in range(42)]
    (tmp_path / "t.csv").write_text("\n".join(["id,kind,few,x", *lines]) + "\n")
    fields = {"source": f"csv:{tmp_path / 't.csv'}", "data__categorical": "onehot"}
    with pytest.raises(InputError) as error:
        sources.load(small(**fields))
    one_line(error, "column id has 42 distinct texts in 42 rows", "data.id_column=id", "data.drop_columns=id")
    with pytest.raises(InputError) as error:
        sources.load(small(**fields, data__id_column="id", data__decimal=","))
    one_line(error, "column x has 42 distinct texts", "data.decimal=.")
    assert sources.load(small(**fields, data__id_column="id")).spec.x.shape == (4,)


@pytest.mark.parametrize("resident", ["true", "false"])
def test_roles_and_empty_cells_are_said(tmp_path, resident):
    lines = [f"m{i},{'ab'[i % 2]},{'xyz'[i % 3]},{i if i % 10 else ''}" for i in range(42)]
    (tmp_path / "t.csv").write_text("\n".join(["machine,state,site,x", *lines]) + "\n")
    fields = {"data__id_column": "machine", "data__label_column": "state", "data__resident": resident}
    said = sources.load(config(**fields, source=f"csv:{tmp_path / 't.csv'}")).describe()
    assert said.endswith("2 classes; ids machine; labels state; one-hot site (3); 5 empty cells (mask)")


def test_a_use_reads_categories_of_new_data_as_the_run_does(tmp_path):
    """The new table lacks the first category, and has one that the run does not know."""
    for file, kinds in (("t", "abc"), ("new", "bcd")):
        lines = [f"{kinds[i % 3]},{i}" for i in range(42)]
        (tmp_path / f"{file}.csv").write_text("\n".join(["kind,x", *lines]) + "\n")
    own = config(source=f"csv:{tmp_path / 't.csv'}")
    x = with_input(own, sources.load(own).spec, f"csv:{tmp_path / 'new.csv'}").test["x"]
    np.testing.assert_array_equal(x[:3, :3], [[0, 1, 0], [0, 0, 1], [np.nan] * 3])


def test_a_column_without_a_training_value_is_refused():
    x = np.random.default_rng(0).standard_normal((40, 3))
    x[:, 1] = np.nan
    with pytest.raises(InputError) as error:
        aejax.fit(pd.DataFrame(x, columns=["a", "b", "c"]), config("mean"))
    one_line(error, "column b has no value in the training split", "data.drop_columns=b")


def test_arrays_with_gaps_are_refused_or_filled():
    x = np.random.default_rng(0).standard_normal((40, 3))
    x[3, 1] = np.nan
    with pytest.raises(InputError) as error:
        aejax.fit(x, small())
    one_line(error, "x[3, 1] = nan", "data.missing to mean, median, indicator or mask")
    model = aejax.fit(x, config("mean"))
    assert np.isfinite(model.encode(x)).all()


@pytest.mark.slow
def test_the_estimator_fills_gaps():
    fields = {"train__epochs": 1, "model__encoder__widths": (8,), "train__progress": False, "data__missing": "mask"}
    x = np.random.default_rng(0).standard_normal((40, 3))
    x[3, 1] = np.nan
    estimator = Autoencoder(**fields).fit(x)
    assert np.isfinite(estimator.transform(x)).all()
    table = frame()
    estimator = Autoencoder(**fields, data__categorical="onehot").fit(table)
    codes = estimator.transform(table)
    assert estimator.feature_names_in_.tolist() == list(table.columns)
    assert estimator.inverse_transform(codes).shape == (80, len(OUTPUTS))
    with pytest.raises(ValueError, match="feature names"):
        estimator.transform(table[table.columns[::-1]])
    with pytest.raises(ValueError, match="NaN"):
        Autoencoder().fit(x)


@pytest.mark.slow
def test_masked_cells_are_filled_better_than_by_the_mean():
    """Low-rank data of which a fifth of the cells is removed: the model fills them from the others."""
    random = np.random.default_rng(0)
    whole = random.standard_normal((400, 2)) @ random.standard_normal((2, 8))
    table = np.where(random.random(whole.shape) < 0.2, np.nan, whole)
    gaps, errors = np.isnan(table), {}
    for missing in ("mean", "mask"):
        fields = {"pair__name": "denoise", "train__epochs": 60, "optim__learning_rate": 1e-2}
        model = aejax.fit(table, config(missing, model__encoder__widths=(32,), **fields))
        errors[missing] = ((model.reconstruct(table) - whole)[gaps] ** 2).mean()
    print(errors)
    assert errors["mask"] < errors["mean"] < whole.var()
