"""Manifold: the dimension of the data, a density made of tangent planes, and the graph of nearest neighbours."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from aejax.data.lazy import Lazy
from aejax.fields import WIDTHS, Allowed, Field, at_least, within
from aejax.trained import Trained
from aejax.uses.base import Draw, Metric, Result, Skip
from aejax.uses.data import Data
from aejax.uses.manifold.dimension import Tangents, estimates, nearest_points, tangents, work
from aejax.uses.manifold.graph import build_graph, draw_pairs
from aejax.uses.manifold.parzen import Density, Fitted, choose, isotropic, local_pca, summary
from aejax.uses.manifold.view import View

PARTS = ("dimension", "density", "graph")
PLANES = ("isotropic", "local_pca", "model")  # of the Gaussians
WORK = 2e11  # multiplications for the tangent planes of a wide code at all centres, above which they are left out
SOME = Allowed(lambda: f"be a tuple of at least one of {', '.join(PARTS)}", lambda v: v != () and set(v) <= set(PARTS))
COUNTS = Allowed("be a tuple of at least one integer of at least 1", lambda v: v != () and WIDTHS.accepts(v))
METRICS = {
    "dimension": Metric("estimate of the intrinsic dimension; the model's is the number of directions that it keeps"),
    "translation": Metric(
        "share of a sideways movement of the test images that lies in the tangent plane, in [0, 1]", "", "higher"
    ),
    "log_likelihood": Metric("mean log-density of the test examples under a density of Gaussians", "nats", "higher"),
    "standard_error": Metric("standard error of the mean log-density", "nats"),
    "connected": Metric("share of the test examples in the largest component of the graph of neighbours"),
    "stretch": Metric("mean length of the shortest path between two test codes over their distance; at least 1"),
    "between": Metric(
        "mean log-density of examples between two test examples, under the density of local PCA", "nats", "higher"
    ),
}


def measure(
    trained: Trained,
    data: Data,
    *,
    parts: Annotated[tuple, Field(f"parts: {', '.join(PARTS)}", SOME)] = PARTS,
    examples: Annotated[int, Field("most test examples whose tangent planes are measured", at_least(2))] = 200,
    centres: Annotated[int, Field("most training examples that are centres of Gaussians", at_least(3))] = 2000,
    held_out: Annotated[
        int, Field("most other training examples, which choose the settings of the densities", at_least(1))
    ] = 500,
    queries: Annotated[int, Field("most test examples of the densities and of the graph", at_least(3))] = 2000,
    neighbours: Annotated[
        tuple, Field("numbers of neighbours that give the Gaussian of a centre; the best one is kept", COUNTS)
    ] = (10, 40),
    directions: Annotated[
        tuple, Field("numbers of directions of a Gaussian, at most those of its neighbours; the best is kept", COUNTS)
    ] = (
        2,
        5,
        10,
        20,
    ),
    nearest: Annotated[int, Field("neighbours for the estimates of the dimension and for the graph", at_least(3))] = 10,
    seed: Annotated[int, Field("seed of the examples that are drawn", within(0, 2**32, brackets="[)"))] = 0,
) -> Result:
    """`manifold/dimension`, `manifold/translation` (images), `manifold/log_likelihood` and the graph's numbers.

    Baselines: `local_pca`, `two_nn` and `mle` for the dimension, `local_pca` for the translation, `isotropic` and
    `local_pca` for the log-likelihood, `line` and `blend` for examples between two others. The unit is a pixel's range
    [0, 1], or a column's standard deviation. Raises Skip for texts and for classifiers.
    """
    if data.spec.x.sparse:
        raise Skip("needs images or a dense table: words have no tangent planes")
    if trained.objective.pair.supervised:
        raise Skip("a classifier has no reconstructions, whose derivatives are the tangent planes")
    rng = np.random.default_rng(seed)
    (_, known), (rows, asked) = _drawn(data.train, centres + held_out, rng), _drawn(data.test, queries, rng)
    kept = min(held_out, len(known) // 5)
    if kept < 1 or len(known) - kept < 4 or len(asked) < 4:
        raise Skip("needs at least 5 training examples and 4 test examples")
    fitted, validation = known[: len(known) - kept][:centres], known[len(known) - kept :]
    numbers, tables = dict[str, float](), dict[str, Any]()
    notes = [f"centres: {len(fitted):,} training examples; test examples: {len(asked):,}"]
    view, points, figures = View(trained, data, asked, rows), _flat(fitted), dict[str, Draw]()
    if "dimension" in parts:
        planes = tangents(trained, asked[:examples])
        found = estimates(points, nearest)
        numbers["manifold/dimension"] = planes.dimension
        numbers |= {f"manifold/{name}/dimension": value for name, value in found.items()}
        if view.image:
            numbers |= translations(planes, asked[:examples], points, nearest)
        figures |= view.of_planes(planes, found)
    made = list[Fitted]()
    if {"density", "graph"} & set(parts):
        names = PLANES if "density" in parts else PLANES[1:2]
        made, said = densities(trained, fitted, validation, names, neighbours, directions)
        notes += said
    if "density" in parts:
        table = [own.about | summary(own.density, _flat(asked)) for own in made]
        tables |= {"density": {column: [row[column] for row in table] for column in table[0]}} if table else {}
        for row in table:
            name = "manifold/" if row["planes"] == "model" else f"manifold/{row['planes']}/"
            numbers |= {name + term: row[term] for term in ("log_likelihood", "standard_error")}
        figures |= view.of_densities(made)
    if "graph" in parts:
        density = next((own.density for own in made if own.name == "local_pca"), None)
        near = neighbourhood(view, nearest, density, rng)
        numbers |= near.numbers
        tables |= near.tables
        figures |= near.figures
        notes += near.notes
    return Result(numbers, tables, figures, notes)


def translations(seen: Tangents, images: np.ndarray, points: np.ndarray, k: int) -> dict[str, float]:
    """Mean over images [n, H, W, C] of ‖P t‖² / ‖t‖²: t is the derivative of a sideways movement, P the projection on
    as many directions as the model's dimension: those of the model, and those of local PCA of the
    k nearest points [N, D]."""
    from aejax.uses.jacobian.plots import derivative

    moved = _flat(np.stack([derivative(image.astype(np.float64)) for image in images]))
    some = (moved**2).sum(1) > 0
    _, near = nearest_points(points, min(max(k, seen.size), len(points)), _flat(images))
    planes = {
        "": seen.directions[:, : seen.size],
        "local_pca/": local_pca(points, _flat(images), near, seen.size).directions,
    }
    shares = {
        name: (np.einsum("ndD,nD->nd", own[some], moved[some]) ** 2).sum(1) / (moved[some] ** 2).sum(1)
        for name, own in planes.items()
    }
    return {f"manifold/{name}translation": float(share.mean()) for name, share in shares.items() if some.any()}


def densities(
    trained: Trained,
    fitted: np.ndarray,
    validation: np.ndarray,
    names: Sequence[str],
    neighbours: Sequence[int],
    directions: Sequence[int],
) -> tuple[list[Fitted], list[str]]:
    """Densities with the examples `fitted` as centres, by the names of their planes, and notes. Each has the settings
    under which the examples `validation` have the largest likelihood."""
    points, held_out, notes, found = _flat(fitted), _flat(validation), list[str](), list[Fitted]()
    most = min(max(neighbours), len(points) - 1)
    distances, near = nearest_points(points, most)
    spacing = float(np.sqrt((distances[:, 0].astype(np.float64) ** 2).mean() / points.shape[1]))
    if not spacing:
        return [], ["densities: left out: every centre equals another one"]
    for name in names:
        if name == "model" and work(trained, fitted) > WORK:
            notes.append(
                f"model: no density: its {len(points):,} decompositions of {points.shape[1]:,} x {points.shape[1]:,} "
                "numbers take too long; set fewer centres, or take a model whose code is narrower than an example"
            )
            continue
        own = tangents(trained, fitted, max(directions)).directions if name == "model" else None
        best: Fitted | None = None
        for k in [0] if name == "isotropic" else sorted({min(k, most) for k in neighbours}):
            planes = local_pca(points, points, near[:, :k], max(directions), own) if k else isotropic(points)
            sizes = sorted({min(d, planes.variances.shape[1]) for d in directions})
            choice = choose(points, planes, held_out, spacing, sizes)
            if best is None or choice.likelihood > best.likelihood:
                density = Density(points, planes.leading(choice.directions), choice.sigma)
                best = Fitted(name, density, k, choice.likelihood)
        found += [best] if best else []
    return found, notes


def neighbourhood(view: View, k: int, density: Density | None, rng: np.random.Generator) -> Result:
    """The graph of the test codes, and paths in it."""
    trained, labels = view.trained, view.data.labels("test")
    made = build_graph(trained.map(trained.pure_encode, view.x).reshape(len(view.x), -1), min(k, len(view.x) - 1))
    numbers = {"manifold/connected": made.connected}
    pairs = draw_pairs(made, None if labels is None else labels[view.rows], rng)
    if not len(pairs):
        return Result(numbers, notes=["graph: all codes are equal, so that there are no paths"])
    paths, lengths = made.paths(pairs)
    straight = made.straight(pairs)
    numbers["manifold/stretch"] = float((lengths / straight).mean())
    table = {
        "start": view.rows[pairs[:, 0]].tolist(),
        "end": view.rows[pairs[:, 1]].tolist(),
        "length": lengths.tolist(),
        "straight": straight.tolist(),
        "path": [" ".join(map(str, view.rows[path])) for path in paths],
    }
    notes = [] if trained.decodable else ["graph: the model decodes no code alone, so that no path is decoded"]
    if trained.decodable and density is not None:
        parts = zip(*(view.between(made, path) for path in paths), strict=True)
        for name, examples in zip(("", "line/", "blend/"), parts, strict=True):
            inner = np.concatenate([part[1:-1] for part in examples])  # without both ends
            numbers[f"manifold/{name}between"] = float(density.log_prob(_flat(inner)).mean())
    return Result(numbers, {"paths": table}, view.of_graph(made, paths), notes)


def _drawn(x: np.ndarray | Lazy, most: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of at most so many examples, in random order, and the examples; a missing value is 0, the column's mean."""
    rows = rng.permutation(len(x))[:most]
    order = np.argsort(rows)
    examples = np.empty((len(rows), *x.shape[1:]), np.float32)
    examples[order] = np.nan_to_num(np.asarray(x[rows[order]]))
    return rows, examples


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)
