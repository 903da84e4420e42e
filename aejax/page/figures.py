"""The figures of a run, and the map of its codes."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aejax.data.lazy import Lazy
from aejax.page import query
from aejax.plots import (
    DPI,
    WIDTH,
    code_maps,
    column_errors,
    filters,
    image_grid,
    image_rows,
    legend,
    loss_curves,
    mosaic,
    series_rows,
    show,
    stage_curves,
    subplots,
    window,
)
from aejax.storage import run_dir
from aejax.trained import Trained
from aejax.training import few_labels
from aejax.uses.data import Data
from aejax.uses.reconstruction import compresses, pca_reconstruct

POINTS = 5000  # most examples in a figure
RASTER, PIXELS = 48, 2_000_000  # codes along a side of the report's map, and the largest number of pixels of its images


def draw(model: Trained, data: Data, metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw every figure that the model and its data allow into a run directory; a line for each that fails."""
    folder = path / run_dir.FIGURES
    folder.mkdir(exist_ok=True)
    for name, make in plots(model, data, metrics).items():
        save(name, make, folder)
    codes = _codes(model, data)
    if codes.shape[1:] == (2,):
        save(run_dir.MAP, lambda: code_raster(model, codes, _labels(data)), folder)


def save(name: str, make: Callable[[], Any], folder: Path) -> None:
    """Write a figure as PNG, or arrays as .npz; None is left out, and a figure that fails is left out with a line."""
    try:
        made = make()
    except Exception as error:  # a figure never costs the results
        print(f"figure {name}: left out: {type(error).__name__}: {' '.join(str(error).split())[:200]}", flush=True)
        return
    folder.mkdir(exist_ok=True)
    if isinstance(made, Figure):
        made.savefig(folder / f"{name}.png", dpi=DPI, bbox_inches="tight")
    elif made is not None:
        np.savez_compressed(folder / name, **made)


def plots(model: Trained, data: Data, metrics: Sequence[Mapping[str, Any]]) -> dict[str, Callable[[], Figure | None]]:
    """name -> a function that draws it."""
    config, image, test = model.config.figures, data.spec.x.kind == "image", data.test
    pair = model.objective.pair
    found: dict[str, Callable[[], Figure | None]] = {
        "loss": lambda: loss_curves([line for line in metrics if "stage" not in line])
    }
    if any("stage" in line for line in metrics):
        found["stages"] = lambda: stage_curves(metrics)
    seen = np.asarray(test[: config.examples])
    if not pair.supervised and data.spec.x.kind != "tokens":
        found["reconstructions"] = lambda: reconstructions(model, data, seen)
    codes = _codes(model, data)

    def maps() -> Figure | None:
        target = _flat(model.target(_points(data)))
        scores = data.pca(model).transform(target)
        return code_maps(_flat(codes), scores, _labels(data), data.spec.classes)

    if data.spec.x.kind != "tokens":  # PCA of the numbers of tokens means nothing
        found["codes"] = maps
    if image and pair.degrades:
        found[model.config.pair.name] = lambda: image_rows(pair_rows(model, seen))
    if pair.conditional:
        found["completions"] = lambda: image_rows(completion_rows(model, seen))
    if image and model.decodable and codes.shape[1:] == (2,):
        box = config.box or tuple(np.percentile(codes, (5, 95), axis=0).T.ravel())
        found["grid"] = lambda: decoded_grid(model, box, config.grid)
    if image and model.decodable and model.experiment.has_prior:
        found["samples"] = lambda: image_grid(model.sample(100))
    kernel = model.params["encoder"].get("layers_0", {}).get("kernel")
    if image and kernel is not None and len(kernel) == math.prod(data.spec.x.shape):
        weights = filters(np.asarray(kernel), data.spec.x.shape)
        found["filters"] = lambda: image_grid(weights)
    return found


def reconstructions(model: Trained, data: Data, seen: np.ndarray) -> Figure | None:
    """Test examples beside their reconstructions and PCA's."""
    image, video, pca = data.spec.x.kind == "image", data.spec.x.kind == "video", data.pca(model)
    shown = seen[:1] if video else seen if image else _points(data)
    made = {"reconstruction": model.map(model.pure_reconstruct, shown)}
    if compresses(pca):
        made[f"PCA, {pca.n_components_} components"] = pca_reconstruct(pca, model.target(shown))
    if video:  # the frames of one
        return image_rows({name: frames[0] for name, frames in {"original": shown, **made}.items()})
    if image:
        return image_rows({"original": seen, **made})
    if data.spec.x.kind == "series":
        return series_rows(np.where(np.isnan(shown), np.nan, model.target(shown)), made, data.spec.x.columns)
    return column_errors(model.target(shown), made, data.spec.x.outputs)


def _points(data: Data) -> np.ndarray:
    """Test examples to draw, spread over the split: a source may be ordered by class."""
    return np.asarray(data.test[_drawn(data.test)])


def _drawn(test: Lazy) -> np.ndarray:
    return np.linspace(0, len(test) - 1, min(len(test), POINTS)).astype(int)


def _labels(data: Data) -> np.ndarray | None:
    labels = data.labels("test")
    return None if labels is None else labels[_drawn(data.test)]


def _codes(model: Trained, data: Data) -> np.ndarray:
    return model.map(model.pure_encode, _points(data))


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)


def pair_rows(model: Trained, x: np.ndarray) -> dict[str, np.ndarray]:
    """Images [n, H, W, C] as target, the pair's input for them, and the output of the model."""
    given, hidden, output = model.corrupted(x)
    names = model.objective.pair.rows
    if hidden is not None and hidden.shape[-1] == 1:
        given = _masked(given, hidden)
    return dict(zip(names, (given, output, x), strict=True))


def completion_rows(model: Trained, x: np.ndarray, n: int = 5) -> dict[str, np.ndarray]:
    """The visible part of images [m, H, W, C], n completions, and the images."""
    given, hidden, _ = model.corrupted(x)
    assert hidden is not None
    drawn = model.complete(x, n=n)
    return {"visible": _masked(given, hidden), **{f"drawn {i + 1}": r for i, r in enumerate(drawn)}, "original": x}


def _masked(given: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The hidden part in grey, since images may hold black."""
    return np.where(hidden == 1, np.float32(0.5), given)


def few_labels_curve(path: Path) -> Figure | None:
    """Error against the number of labels, by start, of a run directory."""
    found = few_labels.curve(path)
    if found is None:
        return None
    sizes, errors = found
    figure, ax = subplots(figsize=(WIDTH, 3.4))
    for name, values in errors.items():
        ax.errorbar(sizes, values.mean(1), values.std(1), marker="o", markersize=4, capsize=3, label=name)
    ax.set(xscale="log", xlabel="labels", ylabel="test error, percent", ylim=(0, None))
    ax.set_xticks(sizes, [str(n) for n in sizes])
    ax.set_xticks([], minor=True)
    ax.grid(alpha=0.3)
    legend(ax)
    return figure


def decoded_grid(model: Trained, box: Sequence[float], side: int) -> Figure:
    """The decoder's images over an even grid of two-dimensional codes, each at its code."""
    x0, x1, y0, y1 = box
    xs, ys = np.linspace(x0, x1, side), np.linspace(y1, y0, side)  # the first row is the top
    codes = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    figure, ax = subplots(figsize=(WIDTH, WIDTH))
    dx, dy = (x1 - x0) / (side - 1) / 2, (y1 - y0) / (side - 1) / 2
    show(ax, mosaic(model.decode(codes), side, gap=0), extent=(x0 - dx, x1 + dx, y0 - dy, y1 + dy))
    ax.set_axis_on()
    ax.set(xlabel="unit 1", ylabel="unit 2", aspect="auto")
    return figure


def code_raster(model: Trained, codes: np.ndarray, labels: np.ndarray | None) -> dict[str, np.ndarray]:
    """The interactive map of the report: codes [n, 2], their labels and, if a code alone can be decoded, the means
    decoded over an even raster of their box, [side, side, ...], from the top left; images as uint8; of a text model
    its encoder, for typed queries.
    """
    (x0, x1), (y0, y1) = window(codes)
    made = {"codes": codes, "box": np.array([x0, x1, y0, y1])} | ({} if labels is None else {"labels": labels})
    made |= query.stored(model)
    if model.decodable:
        side = int(np.clip(math.isqrt(PIXELS // math.prod(model.spec.x.shape[:2])), 8, RASTER))
        z = np.stack(np.meshgrid(np.linspace(x0, x1, side), np.linspace(y1, y0, side)), -1).reshape(-1, 2)
        decoded = model.decode(z).reshape(side, side, *model.spec.x.shape)
        image = model.spec.x.kind == "image"
        made["decoded"] = (
            np.round(255 * np.clip(decoded, 0, 1)).astype(np.uint8) if image else decoded.astype(np.float32)
        )
    return made
