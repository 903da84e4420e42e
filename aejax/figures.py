"""Every plot of a run, as PNG files."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")  # no display

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from aejax import few_labels, run_dir
from aejax.data.dataset import Dataset
from aejax.data.lazy import Lazy
from aejax.errors import InputError
from aejax.evaluators import jacobian
from aejax.evaluators.reconstruction import compresses, pca_reconstruct
from aejax.predict import Trained

if TYPE_CHECKING:
    from aejax.compare import Run

POINTS = 5000  # most examples in a figure
RASTER, PIXELS = 48, 2_000_000  # places along a side of the report's map, and most pixels of all its images
SPECTRA = 50  # test images whose Jacobian is decomposed


def draw(
    model: Trained,
    data: Dataset,
    test: Lazy,
    pca: PCA,
    metrics: Sequence[Mapping[str, Any]],
    folder: Path,
) -> None:
    """Draw every figure that the model and its data allow; `test` are the examples as the model sees them."""
    folder.mkdir(exist_ok=True)
    config, image = model.config.figures, data.spec.kind == "image"
    pair, conditional = model.objective.pair, model.objective.pair.conditional
    plots: dict[str, Figure | None] = {"loss": loss_curves([line for line in metrics if "stage" not in line])}
    if any("stage" in line for line in metrics):
        plots["stages"] = stage_curves(metrics)
    seen = np.asarray(test[: config.examples])
    drawn = np.linspace(0, len(test) - 1, min(len(test), POINTS)).astype(int)  # a source may be ordered by class
    points = np.asarray(test[drawn])
    target = model.target(points)  # on the scale of what the model gives
    labels = data.test["y"][drawn] if "y" in data.test else None
    if not pair.supervised:
        shown = seen if image else points
        made = {"reconstruction": model.map(model.pure_reconstruct, shown)}
        if compresses(pca):
            made["PCA"] = pca_reconstruct(pca, model.target(shown))
        plots["reconstructions"] = (
            image_rows({"original": seen, **made}) if image else table_scatter(target, made, data.spec.columns)
        )
    codes = model.map(model.pure_encode, points)
    flat = codes.reshape(len(codes), -1)
    plots["codes"] = code_maps(flat, pca.transform(target.reshape(len(target), -1)), labels, data.spec.classes)
    if image and pair.degrades:
        plots[pair.name] = image_rows(pair_rows(model, seen))
    if conditional:
        plots["completions"] = image_rows(completion_rows(model, seen))
    if codes.shape[1:] == (2,):
        np.savez_compressed(folder / run_dir.MAP, **code_raster(model, codes, labels))  # type: ignore[arg-type]
    if image and model.decodable and codes.shape[1:] == (2,):
        box = config.box or tuple(np.percentile(codes, (5, 95), axis=0).T.ravel())
        plots["grid"] = decoded_grid(model, box, config.grid)
    if image and model.decodable and model.config.model.bottleneck.name == "gaussian":
        plots["samples"] = image_grid(model.sample(100), "samples from the prior")
    kernel = model.params["encoder"].get("layers_0", {}).get("kernel")
    if image and kernel is not None and len(kernel) == math.prod(data.spec.shape):
        plots["filters"] = image_grid(
            filters(np.asarray(kernel), data.spec.shape), "weights of the first layer's units"
        )
    if image and model.config.evaluate.jacobian:
        values, vectors = jacobian.svd(model, np.asarray(test[:SPECTRA]))
        plots["singular_values"] = spectrum(values)
        plots["tangents"] = tangents(seen[:SPECTRA], vectors[: len(seen), ..., : seen.shape[-1]])
        plots["translation"] = translation(seen[0], pca)
    for name, figure in plots.items():
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
            plt.close(figure)


def pair_rows(model: Trained, x: np.ndarray) -> dict[str, np.ndarray]:
    """Images [n, H, W, C], what the pair gives of them, and what the model makes of that."""
    given, hidden, output = model.corrupted(x)
    if model.objective.pair.name == "denoise":
        return {"clean": x, "corrupted": given, "denoised": output}
    if hidden is not None:
        return {"masked": _masked(given, hidden), "output": output, "original": x}
    return {"grey": given, "output": output, "original": x}


def completion_rows(model: Trained, x: np.ndarray, n: int = 5) -> dict[str, np.ndarray]:
    """What is visible of images [m, H, W, C], n draws of the rest, and the images."""
    given, hidden, _ = model.corrupted(x)
    assert hidden is not None
    drawn = model.complete(x, n=n)
    return {"visible": _masked(given, hidden), **{f"drawn {i + 1}": r for i, r in enumerate(drawn)}, "original": x}


def _masked(given: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Hidden in grey: black is a value that images have."""
    return np.where(hidden == 1, np.float32(0.5), given)


def loss_curves(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss and each of its terms over the epochs, by split."""
    hidden = {"step", "epoch", "split", "finite", "examples_per_second", "learning_rate", "parameter_norm"}
    last = [line for line in metrics if line["split"] == "train"][-1:]
    names = [name for name in (last[0] if last else {}) if name not in hidden | {"gradient_norm"}]
    names += ["error"] if any("error" in line for line in metrics) else []
    columns, rows = min(max(len(names), 1), 4), -(-max(len(names), 1) // 4)
    figure, grid = plt.subplots(rows, columns, figsize=(4 * columns, 3 * rows), squeeze=False)
    axes = grid.ravel()
    for ax in axes[max(len(names), 1) :]:
        ax.axis("off")
    for ax, name in zip(axes, names, strict=False):
        for split in ("train", "validation", "test"):
            points = [(line["epoch"], line[name]) for line in metrics if line["split"] == split and name in line]
            if points:
                marker = "o" if len(points) == 1 else ""
                ax.plot(*zip(*points, strict=True), label=split, linewidth=1.2, marker=marker, markersize=3)
        ax.set_xlabel("epoch")
        ax.set_title(name.replace("_", " "))
        ax.grid(alpha=0.3)
        _focus(ax)
    axes[0].legend()
    figure.tight_layout()
    return figure


def draw_few_labels(path: Path) -> None:
    """Error against the number of labels, by start, into the figures of a run directory."""
    found = few_labels.curve(path)
    if found is None:
        return
    sizes, errors = found
    figure, ax = plt.subplots(figsize=(5, 3.5))
    for name, values in errors.items():
        ax.errorbar(sizes, values.mean(1), values.std(1), marker="o", markersize=4, capsize=3, label=name)
    ax.set(xscale="log", xlabel="labels", ylabel="test error, percent", ylim=(0, None))
    ax.set_xticks(sizes, [str(n) for n in sizes])
    ax.set_xticks([], minor=True)
    ax.grid(alpha=0.3)
    ax.legend()
    (path / run_dir.FIGURES).mkdir(exist_ok=True)
    figure.savefig(path / run_dir.FIGURES / "few_labels.png", dpi=120, bbox_inches="tight")
    plt.close(figure)


def stage_curves(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Reconstruction of each stage of pretraining over its epochs: the target of a stage is the code below it."""
    names = sorted({line["stage"] for line in metrics if "stage" in line})
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3), squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        for split in ("train", "validation", "test"):
            lines = [line for line in metrics if line.get("stage") == name and line["split"] == split]
            if lines:
                ax.plot(*zip(*[(line["epoch"], line["reconstruction"]) for line in lines], strict=True), label=split)
        ax.set(xlabel="epoch", title=f"{name.replace('_', ' ')}: reconstruction")
        ax.grid(alpha=0.3)
        _focus(ax)
    axes[0][0].legend()
    figure.tight_layout()
    return figure


def _focus(ax: Axes) -> None:
    """Leave the first moments of training out of the range where they would flatten the rest."""
    values = np.concatenate([line.get_ydata() for line in ax.lines]) if ax.lines else np.zeros(0)
    if len(values) > 20:
        low, high = np.min(values), np.percentile(values, 98)
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low)) if high > low else None


def image_rows(rows: Mapping[str, np.ndarray]) -> Figure:
    """Rows of images [n, H, W, C], one name each."""
    n = len(next(iter(rows.values())))
    figure, axes = plt.subplots(len(rows), n, figsize=(n, 1.1 * len(rows)), squeeze=False)
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(row, images, strict=True):
            show(ax, image)
        row[0].set_axis_on()
        row[0].set(xticks=[], yticks=[])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for spine in row[0].spines.values():
            spine.set_visible(False)
    figure.subplots_adjust(wspace=0.05, hspace=0.05)
    return figure


def image_grid(images: np.ndarray, title: str) -> Figure:
    """Images [n, H, W, C] in a square."""
    side = int(np.ceil(np.sqrt(len(images))))
    figure, ax = plt.subplots(figsize=(6, 6))
    show(ax, mosaic(images, side))
    ax.set_title(title)
    return figure


def decoded_grid(model: Trained, box: Sequence[float], side: int) -> Figure:
    """The decoder's images over an even grid of 2-d codes, in place."""
    x0, x1, y0, y1 = box
    xs, ys = np.linspace(x0, x1, side), np.linspace(y1, y0, side)  # the first row is the top
    codes = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    figure, ax = plt.subplots(figsize=(7, 7))
    dx, dy = (x1 - x0) / (side - 1) / 2, (y1 - y0) / (side - 1) / 2
    show(ax, mosaic(model.decode(codes), side, gap=0), extent=(x0 - dx, x1 + dx, y0 - dy, y1 + dy))
    ax.set_axis_on()
    ax.set(xlabel="code 1", ylabel="code 2", title="decoded images over the code space", aspect="auto")
    return figure


def mosaic(images: np.ndarray, side: int, gap: int = 1) -> np.ndarray:
    """Images [n, H, W, C] side by side, `side` in a row, with a gap in pixels."""
    n, h, w, c = images.shape
    rows = -(-n // side)
    padded = np.ones((rows * side, h + gap, w + gap, c), np.float32)
    padded[:n, :h, :w] = _unit(images)
    return padded.reshape(rows, side, h + gap, w + gap, c).swapaxes(1, 2).reshape(rows * (h + gap), -1, c)


def show(ax: Axes, image: np.ndarray, **kwargs: Any) -> None:
    """One image [H, W, C]: grey for one channel, colours for three, else the mean of the channels."""
    image = np.clip(_unit(image), 0, 1)
    image = image if image.shape[-1] == 3 else image.mean(-1)
    ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest", **kwargs)
    ax.set_axis_off()


def _unit(images: np.ndarray) -> np.ndarray:
    return images / np.float32(255) if images.dtype == np.uint8 else images


def filters(kernel: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The weights [D, units] of at most 100 units as images, each scaled about grey = 0."""
    weights = kernel.T[:100].reshape(-1, *shape)
    return 0.5 + 0.5 * weights / np.maximum(np.abs(weights).max(axis=(1, 2, 3), keepdims=True), 1e-12)


def spectrum(values: np.ndarray) -> Figure:
    """Singular values of ∂h/∂x, mean over examples: how many directions the code follows."""
    figure, ax = plt.subplots(figsize=(5, 3.5))
    mean = values.mean(0)
    ax.plot(np.arange(1, len(mean) + 1), mean)
    ax.fill_between(np.arange(1, len(mean) + 1), *np.percentile(values, (10, 90), axis=0), alpha=0.2)
    ax.set(xlabel="singular value", ylabel="size, mean and 10-90 %", title="∂h/∂x on test images", ylim=(0, None))
    ax.grid(alpha=0.3)
    return figure


def tangents(images: np.ndarray, vectors: np.ndarray, count: int = 5) -> Figure:
    """The leading right singular vectors of ∂h/∂x under their images: grey where nothing changes."""
    rows = {"image": _unit(images)}
    for k in range(min(count, vectors.shape[1])):
        v = vectors[:, k]
        rows[f"tangent {k + 1}"] = 0.5 + 0.5 * v / np.abs(v).max(axis=(1, 2, 3), keepdims=True)
    return image_rows(rows)


def translation(image: np.ndarray, pca: PCA, steps: int = 81) -> Figure:
    """The curve that an image draws in PCA's first two coordinates when it is moved sideways, and its tangent."""
    image = _unit(image).astype(np.float64)
    reach = image.shape[1] / 2
    shifts = np.linspace(-reach, reach, steps)
    moved = np.stack([_shifted(image, shift) for shift in shifts])
    curve = pca.transform(moved.reshape(steps, -1))[:, :2]
    tangent = (_shifted(image, 1.0) - _shifted(image, -1.0)) / 2  # per pixel moved
    figure, axes = plt.subplots(1, 3, figsize=(11, 4), width_ratios=(2, 1, 1))
    axes[0].plot(*curve.T, ".-", linewidth=0.8, markersize=3)
    origin, direction = pca.transform(image.reshape(1, -1))[0, :2], pca.components_[:2] @ tangent.ravel()
    line = origin + np.outer((-3, 3), direction)  # 3 pixels to either side
    axes[0].plot(*line.T, color="tab:red", label="tangent, ± 3 pixels")
    axes[0].plot(*origin, "o", color="tab:red")
    axes[0].set(xlabel="PCA 1", ylabel="PCA 2", title=f"moved sideways by up to {reach:g} pixels")
    axes[0].legend()
    show(axes[1], image)
    axes[1].set_title("image")
    show(axes[2], 0.5 + 0.5 * tangent / np.abs(tangent).max())
    axes[2].set_title("tangent: lighter, darker")
    return figure


def _shifted(image: np.ndarray, shift: float) -> np.ndarray:
    """The image [H, W, C] moved to the right by `shift` pixels, linear between pixels, zeros from outside."""
    columns = np.arange(image.shape[1]) - shift
    low = np.floor(columns).astype(int)
    part = (columns - low)[None, :, None]
    padded = np.pad(image, ((0, 0), (1, 1), (0, 0)))
    index = np.clip(low + 1, 0, image.shape[1] + 1), np.clip(low + 2, 0, image.shape[1] + 1)
    return (1 - part) * padded[:, index[0]] + part * padded[:, index[1]]


def code_maps(
    codes: np.ndarray, scores: np.ndarray, labels: np.ndarray | None, classes: Sequence[str]
) -> Figure | None:
    """The codes in two dimensions, coloured by label, beside PCA of the examples."""
    if min(codes.shape) < 2 or scores.shape[1] < 2:  # one unit, or one example
        return None
    title, axis = "code", "code"
    if codes.shape[1] > 2:
        title, axis = f"code: first 2 of {codes.shape[1]} components", "component"
        codes = PCA(2, random_state=0).fit_transform(codes)
    figure, axes = plt.subplots(1, 2, figsize=(11, 5))
    shown = ((codes, title, axis), (scores[:, :2], "PCA of the examples", "component"))
    for ax, (points, name, axis) in zip(axes, shown, strict=True):
        if labels is None:
            ax.scatter(*points[:, :2].T, s=4, linewidths=0)
        else:
            colours = plt.get_cmap("tab10" if len(classes) <= 10 else "tab20")
            unlabelled = points[labels == -1]
            ax.scatter(*unlabelled[:, :2].T, s=4, linewidths=0, color="0.7")
            for k, label in enumerate(classes):
                chosen = points[labels == k]
                ax.scatter(*chosen[:, :2].T, s=4, linewidths=0, color=colours(k % colours.N), label=label)
        # A few far points would press the others together.
        low, high = np.percentile(points[:, :2], (0.5, 99.5), axis=0)
        margin = 0.05 * (high - low) + 1e-6
        limits = np.stack([low - margin, high + margin], axis=1)
        ax.set(title=name, xlim=limits[0], ylim=limits[1], xlabel=f"{axis} 1", ylabel=f"{axis} 2")
    if labels is not None and 0 < len(classes) <= 20:
        axes[1].legend(markerscale=3, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def comparison(runs: Sequence["Run"], labels: Mapping[str, str], name: str) -> Figure:
    """A result of several runs, in their order: over the epochs where it was logged, and at the end."""
    split, _, metric = name.rpartition("/")
    curves = {
        run.name: [(m["epoch"], m[metric]) for m in run.metrics if m["split"] == split and metric in m] for run in runs
    }
    drawn = any(len(curve) > 1 for curve in curves.values())
    height = max(2.5, 1 + 0.3 * len(runs))
    figure, axes = plt.subplots(1, 1 + drawn, figsize=(6 + 5 * drawn, height), squeeze=False)
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(runs)))
    for run, colour in zip(runs, colours, strict=True):
        if drawn and curves[run.name]:
            axes[0][0].plot(*zip(*curves[run.name], strict=True), color=colour, linewidth=1.2)
    if drawn:
        axes[0][0].set(xlabel="epoch", title=name)
        axes[0][0].grid(alpha=0.3)
        _focus(axes[0][0])
    ax = axes[0][-1]
    values = [run.results.get(name, math.nan) for run in runs]
    ax.scatter(values, np.arange(len(runs)), c=colours, zorder=2)
    for i, value in enumerate(values):
        text, x = (f"{value:.4g}", value) if math.isfinite(value) else ("no result", np.nanmean(values))
        ax.annotate(text, (x, i), xytext=(6, 0), textcoords="offset points", va="center", fontsize="small")
    ax.set_yticks(np.arange(len(runs)), [labels[run.name] for run in runs])
    ax.set(title=f"{name}, at the end", ylim=(len(runs) - 0.5, -0.5))
    ax.margins(x=0.15)
    ax.grid(alpha=0.3)
    figure.tight_layout()
    return figure


def encode(figure: Figure, path: Path) -> bytes:
    """The figure in the format of the path's suffix; raises InputError."""
    form = path.suffix.removeprefix(".").lower()
    if form not in ("png", "pdf", "svg"):
        raise InputError(f"{path}: a figure's file must end in .png, .pdf or .svg")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return buffer.getvalue()


def code_raster(model: Trained, codes: np.ndarray, labels: np.ndarray | None) -> dict[str, np.ndarray]:
    """What one can move over in the report: codes [n, 2], their labels, and where the decoder needs a code alone,
    the means decoded over an even raster of a box of them [side, side, ...], from the top left; images as uint8.
    """
    low, high = np.percentile(codes, (0.5, 99.5), axis=0, method="inverted_cdf")  # of few codes, all
    margin = np.maximum(0.05 * (high - low), 1e-3 * np.maximum(np.abs(low), 1))
    (x0, y0), (x1, y1) = low - margin, high + margin
    made = {"codes": codes, "box": np.array([x0, x1, y0, y1])} | ({} if labels is None else {"labels": labels})
    if model.decodable:
        side = int(np.clip(math.isqrt(PIXELS // math.prod(model.spec.shape[:2])), 8, RASTER))
        z = np.stack(np.meshgrid(np.linspace(x0, x1, side), np.linspace(y1, y0, side)), -1).reshape(-1, 2)
        decoded = model.decode(z).reshape(side, side, *model.spec.shape)
        image = model.spec.kind == "image"
        made["decoded"] = (
            np.round(255 * np.clip(decoded, 0, 1)).astype(np.uint8) if image else decoded.astype(np.float32)
        )
    return made


def table_scatter(x: np.ndarray, made: Mapping[str, np.ndarray], columns: Sequence[str]) -> Figure:
    """Share of each column's variance that each of the reconstructions `made` leaves unexplained."""
    names = columns or [str(i) for i in range(x.shape[1])]
    variance = np.maximum(x.var(0), 1e-12)
    left = {name: ((x - r) ** 2).mean(0) / variance for name, r in made.items()}
    shown = np.argsort(-left["reconstruction"])[:40]
    figure, ax = plt.subplots(figsize=(6, 1 + 0.25 * len(shown)))
    for offset, (name, values) in zip((-0.2, 0.2), left.items(), strict=True):
        ax.barh(np.arange(len(shown)) + offset, values[shown], height=0.4, label=name)
    ax.set_yticks(np.arange(len(shown)), [names[i] for i in shown])
    ax.invert_yaxis()
    ax.set_xlabel("squared error / variance, test split")
    ax.legend()
    return figure
