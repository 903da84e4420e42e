"""Manifold: densities by quadrature and by SciPy, dimensions of known manifolds, the graph by brute force, the use."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA

import aejax
from aejax import run as run_lib
from aejax.data import sources
from aejax.errors import InputError
from aejax.page import results
from aejax.uses import USES, Skip
from aejax.uses.data import Data
from aejax.uses.manifold import dimension, graph, parzen
from aejax.uses.manifold import measure as manifold
from common import images, one_line, small, table, trained, trainer

QUICK = {"neighbours": (5,), "directions": (1, 3)}


def density(n=6, d=2, entries=4, sigma=0.4, seed=0):
    rng = np.random.default_rng(seed)
    axes = np.stack([np.linalg.qr(rng.standard_normal((entries, entries)))[0][:d] for _ in range(n)])
    planes = parzen.Planes(axes.reshape(n, d, entries), rng.uniform(0.1, 2, (n, d)))
    return parzen.Density(rng.standard_normal((n, entries)), planes, sigma)


def covariance(own, i):
    u, variances = own.planes.directions[i], own.planes.variances[i]
    return u.T @ np.diag(variances) @ u + own.sigma**2 * np.eye(u.shape[1])


@pytest.mark.parametrize("d", [0, 1, 3])
def test_density_equals_a_mixture_of_scipy(d):
    own, x = density(d=d), np.random.default_rng(1).standard_normal((9, 4))
    parts = [stats.multivariate_normal(c, covariance(own, i)).pdf(x) for i, c in enumerate(own.centres)]
    np.testing.assert_allclose(own.log_prob(x), np.log(np.mean(parts, axis=0)), rtol=1e-9)


@pytest.mark.parametrize(("entries", "d"), [(1, 0), (1, 1), (2, 0), (2, 1)])
def test_density_integrates_to_one(entries, d):
    own, axis = density(d=d, entries=entries), np.linspace(-12, 12, 481)
    points = np.stack(np.meshgrid(*[axis] * entries), -1).reshape(-1, entries)
    assert np.exp(own.log_prob(points)).sum() * (axis[1] - axis[0]) ** entries == pytest.approx(1, rel=1e-6)


def test_draws_have_the_covariance_of_the_density():
    own = density(n=1)
    drawn = own.sample(100_000, np.random.default_rng(0))
    np.testing.assert_allclose(drawn.mean(0), own.centres[0], atol=0.02)
    np.testing.assert_allclose(np.cov(drawn.T), covariance(own, 0), atol=0.03)


@pytest.mark.parametrize("double", [3, 256])
def test_the_grid_has_each_number_of_directions(monkeypatch, double):
    monkeypatch.setattr(parzen, "DOUBLE", double)  # float32, float64
    own = density(d=3)
    x = own.sample(5, np.random.default_rng(0))
    found = parzen.grid(own.centres, own.planes, x, [0.2, 0.4], [1, 3])
    for (i, sigma), (j, size) in itertools.product(enumerate([0.2, 0.4]), enumerate([1, 3])):
        part = parzen.Density(own.centres, own.planes.leading(size), sigma)
        expected = [stats.multivariate_normal(c, covariance(part, k)).logpdf(x) for k, c in enumerate(own.centres)]
        np.testing.assert_allclose(
            found[i, j], np.logaddexp.reduce(expected) - np.log(6), rtol=1e-4 if double == 3 else 1e-9
        )


@pytest.mark.parametrize("restricted", [False, True])
def test_local_pca_equals_the_eigenvectors_of_the_covariance(restricted):
    rng = np.random.default_rng(0)
    points, x = rng.standard_normal((20, 5)), rng.standard_normal((3, 5))
    near = rng.integers(0, 20, (3, 8))
    within = np.stack([np.linalg.qr(rng.standard_normal((5, 3)))[0].T for _ in x]) if restricted else None
    found = parzen.local_pca(points, x, near, 2, within)
    for i in range(3):
        gaps = points[near[i]] - x[i]
        gaps = gaps if within is None else gaps @ within[i].T @ within[i]
        values, vectors = np.linalg.eigh(gaps.T @ gaps / 8)
        np.testing.assert_allclose(found.variances[i], values[::-1][:2], rtol=1e-5)
        np.testing.assert_allclose(np.abs(found.directions[i] @ vectors[:, ::-1][:, :2]), np.eye(2), atol=1e-5)


def test_a_direction_without_variance_is_none():
    points = np.array([[0.0, 0], [1, 0], [2, 0], [3, 0]])
    found = parzen.local_pca(points, points, np.array([[1, 2], [0, 2], [1, 3], [2, 1]]), 2)
    assert (found.variances[:, 1] == 0).all()
    assert (found.directions[:, 1] == 0).all()
    one = parzen.Density(points, found.leading(1), 0.3).log_prob(points + 0.1)
    np.testing.assert_allclose(parzen.Density(points, found, 0.3).log_prob(points + 0.1), one, rtol=1e-12)


def test_the_choice_is_the_best_of_a_fine_grid():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, 2)) * (3, 0.3)
    centres, held_out = x[:60], x[60:]
    _, near = dimension.nearest_points(centres, 6)
    planes = parzen.local_pca(centres, centres, near, 2)
    found = parzen.choose(centres, planes, held_out, 0.05, [1, 2])
    sigmas = np.geomspace(0.01, 3, 300).tolist()
    every = parzen.grid(centres, planes, held_out, sigmas, [1, 2]).mean(-1)
    i, j = np.unravel_index(every.argmax(), every.shape)
    assert found.directions == [1, 2][j]
    assert found.sigma == pytest.approx(sigmas[i], rel=0.06)
    assert found.likelihood == pytest.approx(every.max(), abs=1e-3)


def test_estimators_by_their_formulas():
    x = np.random.default_rng(0).standard_normal((40, 3))
    distances = np.sort(np.linalg.norm(x[:, None] - x[None], axis=-1), axis=1)[:, 1:]
    inverse = [np.mean([np.log(row[4] / row[j]) for j in range(4)]) for row in distances]
    assert dimension.mle(x, 5) == pytest.approx(1 / np.mean(inverse))
    ratios = np.sort(distances[:, 1] / distances[:, 0])[:36]
    slope = np.linalg.lstsq(np.log(ratios)[:, None], -np.log(1 - np.arange(1, 37) / 40), rcond=None)[0]
    assert dimension.two_nn(x) == pytest.approx(slope[0])
    same = np.zeros((9, 3))
    assert np.isnan([dimension.mle(same, 3), dimension.two_nn(same)]).all()


@pytest.mark.parametrize("d", [1, 4])
def test_estimators_know_the_dimension_of_a_linear_manifold(d):
    rng = np.random.default_rng(d)
    x = rng.uniform(size=(800, d)) @ np.linalg.qr(rng.standard_normal((20, d)))[0].T
    assert dimension.local_pca(x, 15) == d
    assert dimension.two_nn(x) == pytest.approx(d, rel=0.15)
    assert dimension.mle(x, 15) == pytest.approx(d, rel=0.15)


@pytest.mark.parametrize("size", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_tangents_equal_the_decomposition_of_finite_differences(size):
    run = trainer(small(model__bottleneck__size=size, model__code_activation="tanh"), images())
    model = trained(run)  # a code narrower than the 30 pixels, and a wider one
    x = Data(run.experiment, run.data).test[:4]
    x, step = np.asarray(x), 1e-2
    found = dimension.tangents(model, x)
    for i in range(4):
        moves = step * np.eye(30, dtype=np.float32).reshape(30, 6, 5, 1)
        up, down = (model.map(model.pure_reconstruct, x[i][None] + s * moves).reshape(30, 30) for s in (1, -1))
        jacobian = ((up - down) / (2 * step)).T
        u, values, _ = np.linalg.svd(jacobian)
        np.testing.assert_allclose(found.values[i], values[: len(found.values[i])], atol=2e-3 * values[0])
        assert np.abs(found.directions[i, 0] @ u[:, 0]) == pytest.approx(1, abs=1e-3)
        own = found.directions[i]
        np.testing.assert_allclose(own @ own.T, np.eye(len(own)), atol=1e-5)
    assert found.dimension == np.median((found.values >= 0.5).sum(1))


@pytest.mark.slow
def test_a_linear_autoencoder_projects_on_the_subspace_of_pca():
    config = small(model__encoder__widths=(), model__code_activation="identity", model__bottleneck__size=2,
                   train__steps=1000, optim__learning_rate=0.01)  # fmt: skip
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 2)) @ rng.standard_normal((2, 6)) + 0.3 * rng.standard_normal((300, 6))
    model = aejax.fit(x, config)
    found = model.tangents(x[:20])
    assert found.dimension == 2
    np.testing.assert_allclose(found.values, 1, atol=0.1)
    pca = PCA(2).fit(model.take(x))
    np.testing.assert_allclose(np.linalg.norm(found.directions @ pca.components_.T, axis=-1), 1, atol=0.02)
    with pytest.raises(InputError) as error:
        model.tangents(x[:0])
    one_line(error, "tangents", "one or more")


def test_paths_equal_brute_force():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.standard_normal((12, 2)), rng.standard_normal((4, 2)) + 50])
    made = graph.build_graph(points, 3)
    assert made.connected == 12 / 16
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    near = np.argsort(distance, axis=1)[:, 1:4]
    length = np.full((16, 16), np.inf)
    for i, row in enumerate(near):
        length[i, row] = length[row, i] = distance[i, row]
    for k in range(16):  # Floyd & Warshall
        length = np.minimum(length, length[:, k : k + 1] + length[k : k + 1])
    pairs = graph.draw_pairs(made, None, rng)
    paths, found = made.paths(pairs)
    np.testing.assert_allclose(found, length[pairs[:, 0], pairs[:, 1]])
    for (start, end), path, total in zip(pairs, paths, found, strict=True):
        assert (path[0], path[-1]) == (start, end)
        assert distance[path[:-1], path[1:]].sum() == pytest.approx(total)
    assert (pairs < 12).all()
    np.testing.assert_allclose(made.straight(pairs), distance[pairs[:, 0], pairs[:, 1]])
    np.testing.assert_array_equal(graph.spread(np.arange(9.0)[:, None], np.arange(9), 5), [0, 2, 4, 6, 8])


def test_equal_codes_have_no_paths():
    made = graph.build_graph(np.zeros((8, 2)), 3)
    assert len(graph.draw_pairs(made, None, np.random.default_rng(0))) == 0


def test_the_use_on_images():
    labels = (np.arange(100) % 3).tolist()
    run = trainer(small(), images(), labels)
    data = Data(run.experiment, run.data)
    result = manifold.measure(trained(run), data, **QUICK)
    names = {f"{n}dimension" for n in ("", "local_pca/", "two_nn/", "mle/")} | {"translation", "local_pca/translation"}
    names |= {f"{n}{t}" for n in ("", "isotropic/", "local_pca/") for t in ("log_likelihood", "standard_error")}
    names |= {"connected", "stretch", "between", "line/between", "blend/between"}
    assert set(result.numbers) == {f"manifold/{name}" for name in names}
    assert all(results.about(name) for name in result.numbers)
    assert set(results.baselines("manifold/log_likelihood", result.numbers)) == {"isotropic", "local_pca"}
    assert result.numbers["manifold/local_pca/log_likelihood"] > result.numbers["manifold/isotropic/log_likelihood"]
    assert result.numbers["manifold/stretch"] >= 1
    assert result.tables["density"]["planes"] == ["isotropic", "local_pca", "model"]
    assert set(result.figures) == {"dimension", "tangents", "translation", "graph", "paths", "density"}
    assert all(draw() is not None for draw in result.figures.values())
    path = [int(row) for row in result.tables["paths"]["path"][0].split()]
    assert (path[0], path[-1]) == (result.tables["paths"]["start"][0], result.tables["paths"]["end"][0])
    y = data.labels("test")
    assert all(
        y[a] != y[b] for a, b in zip(result.tables["paths"]["start"], result.tables["paths"]["end"], strict=True)
    )


@pytest.mark.slow
def test_the_use_on_a_table_with_missing_values():
    x = table(100)
    x[3, 2] = np.nan
    run = trainer(small(data__missing="mask"), x)
    result = manifold.measure(trained(run), Data(run.experiment, run.data), **QUICK)
    assert "manifold/translation" not in result.numbers
    assert np.isfinite(list(result.numbers.values())).all()
    assert set(result.figures) == {"dimension", "graph"}
    assert all(draw() is not None for draw in result.figures.values())


@pytest.mark.slow
@pytest.mark.parametrize("part", manifold.PARTS)
def test_one_part_alone(part):
    run = trainer(small(), table(60))
    result = manifold.measure(trained(run), Data(run.experiment, run.data), parts=(part,), **QUICK)
    own = {"dimension": "dimension", "density": "log_likelihood", "graph": "stretch"}
    assert {name for name in own if f"manifold/{own[name]}" in result.numbers} == {part}


@pytest.mark.slow
def test_equal_examples_have_no_density():
    run = trainer(small(), np.ones((60, 4)))
    result = manifold.measure(trained(run), Data(run.experiment, run.data))
    assert any("every centre equals another one" in note for note in result.notes)
    assert not any("log_likelihood" in name for name in result.numbers)


@pytest.mark.slow
def test_what_cannot_be_measured_is_skipped(monkeypatch):
    run = trainer(small("docstrings", pair__input="log", objective__likelihood="categorical"))
    with pytest.raises(Skip, match="words have no tangent planes"):
        manifold.measure(trained(run), Data(run.experiment, run.data))
    run = trainer(small(model__bottleneck__size=40), images())
    monkeypatch.setattr(manifold, "WORK", 1e5)
    result = manifold.measure(trained(run), Data(run.experiment, run.data), **QUICK, parts=("density",))
    assert any("narrower than an example" in note for note in result.notes)
    assert "manifold/log_likelihood" not in result.numbers
    assert "manifold/local_pca/log_likelihood" in result.numbers


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"parts": ("tangent",)}, ["uses.manifold.parts = ('tangent',)", "dimension, density, graph"]),
        ({"parts": ()}, ["uses.manifold.parts = ()", "at least one"]),
        ({"neighbours": ()}, ["uses.manifold.neighbours = ()", "at least one integer"]),
        ({"directions": (0,)}, ["uses.manifold.directions = (0,)", "at least 1"]),
        ({"nearest": 1}, ["uses.manifold.nearest = 1", "at least 3"]),
        ({"seed": -1}, ["uses.manifold.seed = -1", "[0, "]),
        ({"centres": 0}, ["uses.manifold.centres = 0", "at least 3"]),
    ],
)
def test_wrong_settings_end_a_run_before_it_trains(tmp_path, fields, words):
    config = small(uses__run=("manifold",), **{f"uses__manifold__{name}": value for name, value in fields.items()})
    with pytest.raises(InputError) as error:
        run_lib.run(config, tmp_path / "run", sources.from_array(table(), config))
    one_line(error, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_denoising_autoencoder_finds_the_dimension_of_a_sphere():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((2000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    x = points @ np.linalg.qr(rng.standard_normal((20, 3)))[0].T
    x += 0.01 * x.std() * rng.standard_normal(x.shape)
    config = small(pair__name="denoise", pair__denoise__corruption="gaussian", pair__denoise__level=0.35,
                   model__encoder__widths=(128, 128), model__bottleneck__size=8, model__code_activation="identity",
                   optim__learning_rate=3e-3, optim__schedule="cosine", train__epochs=60)  # fmt: skip
    model = aejax.fit(x, config)
    numbers = USES["manifold"].measure(model, model.data, parts=("dimension",)).numbers
    assert numbers["manifold/dimension"] == 2
