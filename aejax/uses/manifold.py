"""Manifold: the dimension of the data, their neighbour graph, and a density made of tangent planes."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from aejax.fields import Allowed, Field, at_least, some_of
from aejax.trained import Trained
from aejax.uses import dimension, parzen
from aejax.uses.base import Draw, Metric, Result, Skip
from aejax.uses.data import Data

PARTS = ("dimension", "density", "graph")
COUNTS = Allowed("be a tuple of at least one number from 1", lambda v: v != () and all(n >= 1 for n in v))
METRICS = {
    "dimension": Metric("intrinsic dimension: directions that the model keeps, or the baseline's estimate"),
    "log_likelihood": Metric("mean log-density of the test examples", "nats", "higher"),
    "standard_error": Metric("standard error of the mean log-density", "nats"),
}


def measure(
    trained: Trained,
    data: Data,
    *,
    parts: Annotated[tuple, Field(f"parts: {', '.join(PARTS)}", some_of(PARTS))] = PARTS,
    examples: Annotated[int, Field("most test examples for the dimension", at_least(3))] = 200,
    centres: Annotated[int, Field("most training examples that get a Gaussian of the density", at_least(2))] = 2000,
    held_out: Annotated[
        int, Field("most other training examples, by whose likelihood the density is chosen", at_least(1))
    ] = 500,
    queries: Annotated[int, Field("most test examples of the density and of the graph", at_least(2))] = 2000,
    neighbours: Annotated[
        tuple, Field("numbers of neighbours of a centre that give its Gaussian; the best one is kept", COUNTS)
    ] = (10, 20, 40),
    directions: Annotated[tuple, Field("numbers of directions of a Gaussian; the best one is kept", COUNTS)] = (
        2,
        5,
        10,
        20,
    ),
    nearest: Annotated[
        int, Field("neighbours of local PCA, of the maximum likelihood and of the graph", at_least(2))
    ] = 10,
    seed: Annotated[int, Field("seed of the examples that are drawn", at_least(0))] = 0,
) -> Result:
    """`manifold/dimension` and `manifold/log_likelihood` by the model; the same by local PCA and other baselines."""
    if data.spec.x.sparse:
        raise Skip("needs images or dense tables: words have no tangent planes")
    trained.refuse_classifier("manifold")
    rng = np.random.default_rng(seed)
    train, test = _drawn(data.train, centres + held_out, rng), _drawn(data.test, queries, rng)
    kept = min(held_out, len(train) // 5)
    if kept < 1 or len(test) < 2:
        raise Skip("needs at least 5 training examples and 2 test examples")
    fitted, validation = train[: len(train) - kept][:centres], train[len(train) - kept :]
    numbers, tables, notes = dict[str, float](), dict[str, Any](), list[str]()
    seen = dimension.tangents(trained, test[:examples])
    if "dimension" in parts:
        numbers |= dimensions(seen, _flat(fitted), nearest)
    if "density" in parts:
        found = densities(trained, fitted, validation, test, seen.dimension, neighbours, directions)
        tables["density"] = {name: [row[name] for row in found] for name in found[0]}
        for row in found:
            name = f"manifold/{row['planes']}/" if row["planes"] != "model" else "manifold/"
            numbers |= {name + term: row[term] for term in ("log_likelihood", "standard_error")}
    return Result(numbers, tables, {}, notes)


def dimensions(seen: dimension.Tangents, points: np.ndarray, k: int) -> dict[str, float]:
    """The model's estimate, and those of points [N, D]."""
    k = min(k, len(points) - 1)
    found = {
        "": seen.dimension,
        "local_pca/": dimension.local_pca(points, k),
        "two_nn/": dimension.two_nn(points),
        "mle/": dimension.mle(points, k),
    }
    return {f"manifold/{name}dimension": value for name, value in found.items() if np.isfinite(value)}


def densities(
    trained: Trained,
    fitted: np.ndarray,
    validation: np.ndarray,
    test: np.ndarray,
    size: float,
    neighbours: Sequence[int],
    directions: Sequence[int],
) -> list[dict[str, Any]]:
    """A row for each density of centres `fitted`, with the settings that suit the validation examples best."""
    points, held_out, asked = _flat(fitted), _flat(validation), _flat(test)
    most = min(max(neighbours), len(points) - 1)
    distances, near = dimension.neighbours(points, most)
    spacing = float(np.sqrt((distances[:, 0] ** 2).mean() / points.shape[1]))
    own = dimension.tangents(trained, fitted, max(1, round(size))).directions
    base = parzen.isotropic(points)
    tried = {"isotropic": [(0, base, parzen.choose(points, base, held_out, spacing, [0]))]}
    for name, within in (("local_pca", None), ("model", own)):
        tried[name] = []
        for k in sorted({min(k, most) for k in neighbours}):
            planes = parzen.local_pca(points, near[:, :k], max(directions), within)
            sizes = sorted({min(d, planes.variances.shape[1]) for d in directions})
            tried[name].append((k, planes, parzen.choose(points, planes, held_out, spacing, sizes)))
    rows = []
    for name, options in tried.items():
        k, planes, choice = max(options, key=lambda option: option[2].likelihood)
        density = parzen.Density(points, planes.leading(choice.directions), choice.sigma)
        about = {"planes": name, "neighbours": k, "directions": choice.directions, "sigma": choice.sigma}
        rows.append(about | {"validation": choice.likelihood} | parzen.summary(density, asked))
    return rows


def _drawn(x: Any, most: int, rng: np.random.Generator) -> np.ndarray:
    """At most so many examples, in random order."""
    rows = rng.permutation(len(x))[:most]
    order = np.sort(rows)
    return np.nan_to_num(np.asarray(x[order]))[np.argsort(np.argsort(rows))]


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)
