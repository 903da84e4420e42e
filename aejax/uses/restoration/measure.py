"""Restoration: PSNR and SSIM of a denoising, inpainting or colourising model, beside simple methods; series."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.fields import Allowed, Field, at_least
from aejax.pairs import Denoise, Inpaint, Pair
from aejax.pairs import pair as pair_of
from aejax.trained import Trained
from aejax.uses.base import Draw, Metric, Result, Skip
from aejax.uses.data import Data
from aejax.uses.restoration import series
from aejax.uses.restoration.restored import TASKS
from aejax.uses.restoration.trials import MODEL, Bench, Trial

SHOWN = 8  # images in a figure
MULTIPLES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # of the trained level, in the curves
METRICS = {
    "psnr": Metric("peak signal-to-noise ratio of images clipped to [0, 1], mean over the images", "dB", "higher"),
    "ssim": Metric("structural similarity of images clipped to [0, 1], 7x7 windows", "", "higher"),
    "hidden_psnr": Metric("peak signal-to-noise ratio over the hidden part alone", "dB", "higher"),
    "gain": Metric("PSNR of the model above that of the best simple method, on the same images", "dB", "higher"),
    "hidden_error": Metric("mean squared error of the hidden values of series, as the model sees them", "", "lower"),
    "ratio": Metric("squared error of hidden values by the better simple method, divided by the model's", "", "higher"),
    "size": Metric("side of the median filter's square, best on training images", "pixels"),
    "width": Metric("standard deviation of the Gaussian filter, best on training images", "pixels"),
}


def _numbers(text: str, accepts: Any, *, least: int = 1) -> Allowed:
    def all_of(values: Any) -> bool:
        return len(values) >= least and all(type(v) in (int, float) and accepts(v) for v in values)

    return Allowed(f"be a tuple of {text}", all_of)


def measure(
    trained: Trained,
    data: Data,
    *,
    examples: Annotated[int, Field("most test images that are measured, spread over the split", at_least(1))] = 1000,
    levels: Annotated[
        tuple,
        Field(
            "levels of the damage in the curves: of the noise, or of the hidden part; () = 0.25 to 2 times the trained "
            "level",
            _numbers("numbers of at least 0", lambda v: v >= 0, least=0),
        ),
    ] = (),
    sizes: Annotated[
        tuple,
        Field(
            "sides of the median filter in pixels; the one with the highest training PSNR is used",
            _numbers("one or more odd integers of at least 3", lambda v: type(v) is int and v >= 3 and v % 2 == 1),
        ),
    ] = (3, 5, 7),
    widths: Annotated[
        tuple,
        Field(
            "standard deviations of the Gaussian filter in pixels; the one with the highest training PSNR is used",
            _numbers("one or more numbers of at least 0.1", lambda v: v >= 0.1),
        ),
    ] = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0),
    tuning: Annotated[int, Field("most training images on which size and width are chosen", at_least(1))] = 200,
    biharmonic: Annotated[
        int, Field("most test images that biharmonic inpainting restores, since it is slow; 0 = none", at_least(0))
    ] = 100,
) -> Result:
    """The test images are damaged as in training, by draws that depend on the row alone, and restored.

    `restoration/{psnr,ssim}`, and the same of the damaged image under `restoration/input/`. Denoising:
    `restoration/{median,gaussian}/`, with the size and the width that are best on training images with the same
    damage. Inpainting: `restoration/{nearest,biharmonic}/` and `hidden_psnr`. Colourisation: `restoration/mean_color/`,
    the grey image plus the mean difference of colour and grey in training images. `restoration/gain`: PSNR above the
    best of these. All images are clipped to [0, 1]; an inpainted image keeps the visible pixels. Series with hidden
    spans: see `series.measure`. Raises Skip for other models.
    """
    name, pair = trained.config.pair.name, trained.objective.pair
    if name not in TASKS or pair.supervised or not _suits(pair, data.spec):
        raise Skip(f"needs a model of images with config.pair.name = {', '.join(TASKS)}, or of series with inpaint")
    rows = _spread(np.arange(data.spec.test), examples)
    field = _field(pair)
    trained_level = getattr(pair, field) if field else 0.0
    grid = sorted({float(level) for level in levels or _grid(pair, trained_level)} | {float(trained_level)})
    if data.spec.x.kind == "series":
        return series.measure(trained, data, rows, grid)
    train = data.train[_spread(np.arange(len(data.train)), tuning)]
    bench = Bench(trained, data.test, rows, train, sizes, widths, _spread(rows, biharmonic))
    own = bench.run(pair)
    gain, best = own.gain()
    numbers = {f"restoration/{key}": value for key, value in [*own.means().items(), *own.settings.items()]}
    notes = [f"{len(rows):,} of {data.spec.test:,} test images; the best simple method is {best}"]
    if "biharmonic" in own.values and len(bench.slow) < len(rows):
        few = f"{len(bench.slow):,} of these images"
        notes.append(f"biharmonic inpainting is measured on {few} (uses.restoration.biharmonic)")
    tables: dict[str, Mapping[str, Sequence[Any]]] = {"images": _table(own, rows)}
    order = np.argsort(own.values[MODEL]["psnr"], kind="stable")
    middle = max((len(order) - SHOWN) // 2, 0)
    figures: dict[str, Draw] = {
        "restoration_median": lambda: _rows(bench.images(pair, order[middle : middle + SHOWN], best)),
        "restoration_worst": lambda: _rows(bench.images(pair, order[:SHOWN], best)),
    }
    if field and len(grid) > 1:
        trials = {
            level: own if level == trained_level else bench.run(dataclasses.replace(pair, **{field: level}))  # type: ignore[type-var]
            for level in grid
        }
        tables["levels"] = _levels(trials)
        label = f"pair.{name}.{field}"
        figures["restoration_levels"] = functools.partial(_curves, tables["levels"], trained_level, label)
    return Result({**numbers, "restoration/gain": gain}, tables, figures, notes)


def check(config: Any, spec: Spec) -> Iterator[FieldError]:
    """Errors of the section `uses.restoration` on data of `spec`."""
    pair = pair_of(config.pair)
    if config.pair.name not in TASKS:
        allowed = f"must be {', '.join(TASKS[:-1])} or {TASKS[-1]} for the use restoration"
        yield FieldError("pair.name", config.pair.name, allowed)
    elif not _suits(pair, spec):
        wanted = ", which needs pair.name = inpaint" if spec.x.kind == "series" else ""
        yield FieldError("uses.run", "restoration", f"needs images or series; the data are a {spec.x.kind}{wanted}")
    levels = config.uses.restoration.levels
    if levels and not _field(pair):
        yield FieldError("uses.restoration.levels", levels, "must be () for this pair, which has no level")
    elif _bounded(pair) and any(level > 1 for level in levels):
        yield FieldError("uses.restoration.levels", levels, f"must be at most 1, as pair.{config.pair.name}'s level is")


def _suits(pair: Pair, spec: Spec) -> bool:
    """Whether the examples can be damaged by the pair and restored."""
    return spec.x.kind == "image" or (spec.x.kind == "series" and isinstance(pair, Inpaint))


def _field(pair: Pair) -> str:
    """The field of the pair that is the level of its damage; "" if it has none."""
    if isinstance(pair, Denoise):
        return "level"
    fields = {"pixels": "level", "spans": "level", "square": "size"}
    return fields.get(pair.mask, "") if isinstance(pair, Inpaint) else ""


def _bounded(pair: Pair) -> bool:
    """Whether a level is a share, at most 1."""
    return not (isinstance(pair, Denoise) and pair.corruption in ("gaussian", "deform"))


def _grid(pair: Pair, level: float) -> list[float]:
    """Levels of the curves. If all of an image were hidden, there would be nothing to restore it from."""
    return [round(level * m, 6) for m in MULTIPLES if not _bounded(pair) or level * m < 1]


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many rows, spread evenly: a source may be ordered by class."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int)]


def _table(trial: Trial, rows: np.ndarray) -> dict[str, Sequence[Any]]:
    """A line for each image; empty where a method was not measured."""
    table: dict[str, Sequence[Any]] = {"row": rows.tolist()}
    for method, found in trial.values.items():
        for name, values in found.items():
            cells = ["" if np.isnan(v) else float(f"{v:.5g}") for v in values]
            table[f"{method}_{name}".strip("_")] = cells
    return table


def _levels(trials: Mapping[float, Trial]) -> dict[str, Sequence[Any]]:
    """A line for each level: the mean of each measure by each method, and the chosen settings."""
    lines = [{"level": level, **trial.means(), **trial.settings} for level, trial in trials.items()]
    names = dict.fromkeys(name for line in lines for name in line)
    return {name.replace("/", "_"): [line.get(name, "") for line in lines] for name in names}


def _rows(images: Mapping[str, np.ndarray]) -> Any:
    from aejax.plots import image_rows

    return image_rows(images)


def _curves(table: Mapping[str, Sequence[Any]], level: float, label: str) -> Any:
    from aejax.uses.restoration.plots import level_curves

    return level_curves(table, level, label)
