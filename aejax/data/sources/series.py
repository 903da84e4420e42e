"""Long series, cut into windows and split by time: a file, or a generated periodic series with anomalies."""

import dataclasses
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from aejax.data import windows
from aejax.data.lazy import Lazy
from aejax.data.sources.arrow import Table, check_columns, existing, listed
from aejax.data.sources.categories import Categories
from aejax.data.spec import series_array
from aejax.data.windows import Part, Series
from aejax.errors import FieldError, InputError
from aejax.fields import Field, at_least

ZIP = b"PK\x03\x04"  # the first bytes of an .npz file
PERIOD, STEPS, TRAIN = 50, 4000, 1500  # of the generated series


@dataclasses.dataclass(frozen=True)
class Fields:
    window: Annotated[
        int, Field("series: steps of a window; 0 = first peak of the autocorrelation of the training part", at_least(0))
    ] = 0
    least_window: Annotated[
        int, Field("series: fewest steps of a window that window = 0 chooses, also if there is no peak", at_least(0))
    ] = 0
    stride: Annotated[int, Field("series: steps from one window to the next", at_least(1))] = 1
    center_windows: Annotated[
        bool, Field("series: subtract the mean of each window, by channel, before the channels are scaled")
    ] = False
    time_column: Annotated[
        str, Field('series: column of the times, which must increase; "" = the rows are in the order of time')
    ] = ""


class Found(NamedTuple):
    """What a source of series holds."""

    series: list[Series]
    train: int | None  # steps of the training part; None: data.test_fraction decides
    columns: tuple[str, ...] = ()  # names of the channels
    notes: tuple[str, ...] = ()


def read(argument: str, config: ConfigDict) -> dict[str, Any]:
    """Windows of the training, validation and test part of each series in a file: see `cut`."""
    return cut(load(argument, config), config)


def streamed(argument: str, config: ConfigDict) -> dict[str, Any]:
    """The same; the training windows are cut when they are read."""
    return cut(load(argument, config), config, lazily=True)


def periodic(argument: str, config: ConfigDict) -> dict[str, Any]:
    """Windows of the generated series: see `generated`."""
    return cut(generated(argument, config), config)


def load(argument: str, config: ConfigDict, columns: Sequence[str] = ()) -> Found:
    """The series of an .npz, CSV or Parquet file. columns: the channels by name, in their order; () = all.

    .npz: `value` [T] or [T, channels], and optionally `label` [T] (1 = anomaly), `time` [T] and `train`, the steps of
    the training part. CSV and Parquet: data.time_column, data.id_column (one series for each id), data.label_column.
    """
    path = existing(argument, config)
    with open(path, "rb") as file:
        zipped = file.read(4) == ZIP
    return _npz(path, argument) if zipped else _table(argument, config, columns)


def cut(found: Found, config: ConfigDict, *, lazily: bool = False) -> dict[str, Any]:
    """x_train, x_validation and x_test [windows, width, channels], their `parts`, columns and notes.

    Each series is split by time: no window holds steps of two parts.
    """
    parts, notes = split(found, config)
    x: dict[str, Any] = {name: part.cut(centred=config.data.center_windows) for name, part in parts.items() if not (
        lazily and name == "train")}  # fmt: skip
    if lazily:
        x["train"] = _lazy(parts["train"], config.data.center_windows)
    arrays = {f"x_{name}": values for name, values in x.items()}
    return arrays | {"kind": "series", "parts": parts, "columns": found.columns, "notes": [*found.notes, *notes]}


def split(found: Found, config: ConfigDict) -> tuple[dict[str, Part], list[str]]:
    """The parts of the series by the name of their split, and what was chosen; raises InputError."""
    data, series = config.data, found.series
    fraction = data.validation_fraction
    test = [found.train if found.train is not None else len(one) - round(len(one) * data.test_fraction)
            for one in series]  # fmt: skip
    held = [n - round(n * fraction) for n in test]
    for one, n in zip(series, test, strict=True):
        if not 0 < n < len(one):
            of = f" of series {one.name}" if one.name else ""
            raise InputError(
                f"{data.source}: a training part of {n} steps{of} must be at least 1 step and leave some of the "
                f"{len(one)} for the test; set train of an .npz file, or config.data.test_fraction"
            )
    width, chosen = _width([one.value[:n] for one, n in zip(series, held, strict=True)], config)
    if data.stride > width:
        raise FieldError("data.stride", data.stride, f"must be at most the {width} steps of a window")
    zeros, ends = [0] * len(series), [len(one) for one in series]
    ranges = {"train": (zeros, held), "validation": (held, test), "test": (test, ends)}
    parts = {}
    for name, (begin, end) in ranges.items():
        if name == "validation" and not fraction:
            continue
        try:
            parts[name] = windows.part(series, begin, end, width, data.stride)
        except InputError as error:
            way = {"validation": " or raise data.validation_fraction"}.get(name, "")
            raise InputError(
                f"{data.source}: {error}, its {name} part; set config.data.window to fewer steps{way}"
            ) from error
    notes = [f"windows of {width} steps ({chosen}), one every {data.stride}", "split by time: no window crosses it"]
    labels = {name: part.label() for name, part in parts.items()}
    notes += [
        f"{int(y.sum()):,} of {len(y):,} {name} steps are anomalies" for name, y in labels.items() if y is not None
    ]
    return parts, notes


def whole(series: Sequence[Series], width: int, config: ConfigDict) -> list[Part]:
    """One part for each series: all its steps."""
    return [windows.part([one], [0], [len(one)], width, min(config.data.stride, width)) for one in series]


def generated(argument: str, config: ConfigDict) -> Found:
    """4000 steps of a noisy wave of period 50, whose harmonics drift; the first 1500 are the training part.

    The rest holds seven anomalies of 15 to 120 steps: a beat that is missing, reversed, too fast, too small, too large,
    shifted in level, or replaced by noise. The seed is fixed.
    """
    random, t = np.random.RandomState(0), np.arange(STEPS)
    angle = 2 * np.pi * t / PERIOD + 0.3 * np.sin(2 * np.pi * t / 1100)

    def wave(angle: np.ndarray) -> np.ndarray:
        return np.sin(angle) + 0.5 * np.sin(2 * angle + 0.8) + 0.25 * np.sin(3 * angle)

    value, label = wave(angle), np.zeros(STEPS, np.int8)
    changes = (
        (1800, 50, lambda own: own * 0),
        (2100, 60, lambda own: own[::-1]),
        (2400, 70, lambda own: wave(2 * angle[2400:2470])),
        (2700, 50, lambda own: own * 0.4),
        (3000, 50, lambda own: own * 1.8),
        (3300, 120, lambda own: own + 0.8),
        (3700, 15, lambda own: random.uniform(-1.5, 1.5, len(own))),
    )
    for begin, steps, change in changes:
        value[begin : begin + steps] = change(value[begin : begin + steps])
        label[begin : begin + steps] = 1
    value = value + 0.1 * random.standard_normal(STEPS)
    return Found([Series("", value[:, None], range(STEPS), label)], TRAIN)


LOADERS = {"series": load, "periodic": lambda argument, config, columns: generated(argument, config)}


def _width(train: Sequence[np.ndarray], config: ConfigDict) -> tuple[int, str]:
    """The steps of a window, and how they were chosen: for several series by the median of their periods."""
    data = config.data
    if data.window:
        return data.window, "data.window"
    periods = [found for found in map(windows.period, train) if found]
    if not periods and not data.least_window:
        allowed = "finds no peak of the autocorrelation of the training part: give the steps of a window"
        raise FieldError("data.window", 0, allowed)
    first = int(np.median(periods)) if periods else 0
    said = f"first peak of the autocorrelation: {first}" if periods else "the autocorrelation has no peak"
    if data.least_window > first:
        return data.least_window, f"{said}; data.least_window = {data.least_window}"
    return first, said


def _lazy(part: Part, centred: bool) -> Lazy:
    of = np.repeat(np.arange(len(part.series)), [len(own) for own in part.starts])
    starts = np.concatenate(part.starts)

    def rows(chosen: np.ndarray) -> np.ndarray:
        values = np.empty((len(chosen), part.width, part.series[0].value.shape[1]))
        for i in np.unique(of[chosen]):
            own = of[chosen] == i
            values[own] = windows.cut(part.series[i].value, starts[chosen[own]], part.width, centred=centred)
        return values

    return Lazy(rows, np.arange(len(starts)), (part.width, part.series[0].value.shape[1]), np.float64)


def _npz(path: Path, argument: str) -> Found:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{argument}: cannot be read as .npz: {error}") from error
    if "value" not in arrays:
        sets = "; a set of series [N, time, channels] is written npz:FILE" if {"x", "x_train"} & set(arrays) else ""
        raise InputError(f"{argument}: must hold value [T]; found {', '.join(arrays) or 'nothing'}{sets}")
    value = arrays["value"]
    if value.ndim not in (1, 2) or not len(value):
        raise InputError(f"{argument}: value: must have shape [T] or [T, channels], found {value.shape}")
    value = series_array(value.reshape(1, len(value), -1), f"{argument}: value")[0]
    for name in ("label", "time"):
        if name in arrays and arrays[name].shape != (len(value),):
            raise InputError(f"{argument}: {name}: must have shape ({len(value)},), found {arrays[name].shape}")
    train = arrays.get("train")
    if train is not None and (train.size != 1 or train.dtype.kind not in "iu"):
        raise InputError(f"{argument}: train: must be one whole number, the steps of the training part")
    label = _label(arrays["label"], argument, np.arange(len(value))) if "label" in arrays else None
    time: Sequence[Any] = range(len(value))
    if "time" in arrays:
        _check_times(arrays["time"], arrays["time"], argument, np.arange(len(value)))
        time = arrays["time"].tolist()
    unread = [name for name in arrays if name not in ("value", "label", "time", "train")]
    notes = (f"not read: {', '.join(unread)}",) if unread else ()
    return Found([Series("", value, time, label)], None if train is None else int(train.reshape(())), (), notes)


def _table(argument: str, config: ConfigDict, columns: Sequence[str]) -> Found:
    config = ConfigDict(config.to_dict())
    data = config.data
    data.missing = "mask"  # an empty cell was not observed
    table, time, label, ids = Table(argument, config), data.time_column, data.label_column, data.id_column
    if time and time not in table.names:
        raise FieldError("data.time_column", time, f"must be a column of {argument}: {listed(table.names)}")
    if columns:  # of a run, for other data: labels are not needed
        check_columns(table.names, [*columns, *([ids] if ids else [])], argument)
        label = label if label in table.names else ""
    else:
        data.drop_columns = (*data.drop_columns, *([time] if time else []))
        columns = [name for name in table.features() if name != time]
    numbers, names, asked = list[np.ndarray](), list[Any](), [*columns, *([label] if label else [])]
    for values, own in table.batches(asked, Categories(table, columns), ids):
        numbers.append(values)
        names += own if own is not None else [""] * len(values)
    if not numbers or not columns:
        raise InputError(f"{argument}: no rows of numbers")
    value, name = np.concatenate(numbers), np.array([str(one) for one in names])
    if None in names:
        raise InputError(f"{argument}: row {names.index(None)}: column {ids} is empty")
    written, order = _times(table, time) if time else (list(range(len(value))), np.arange(len(value)))
    unique, first, group = np.unique(name, return_index=True, return_inverse=True)
    groups = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    series = []
    for i in np.argsort(first):  # in the order of the file
        one, rows = str(unique[i]), groups[i]
        times: Sequence[Any] = [written[row] for row in rows.tolist()] if time else range(len(rows))
        if time:
            _check_times(order[rows], times, argument, rows, one)
        truth = _label(value[rows, -1], argument, rows) if label else None
        series.append(Series(one, value[rows][:, : len(columns)], times, truth))
    roles = {"times": time, "ids": ids, "labels": label}
    notes = [*table.notes, *(f"{role} {of}" for role, of in roles.items() if of)]
    notes += [f"{len(series):,} series"] if ids else []
    return Found(series, None, tuple(columns), tuple(notes))


def _times(table: Table, name: str) -> tuple[list[Any], np.ndarray]:
    """A column of times as it is written, and as numbers in their order; raises InputError."""
    import pyarrow

    kind = table.schema.field(name).type
    if not (pyarrow.types.is_temporal(kind) or pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)):
        raise InputError(
            f"{table.argument}: column {name} holds {kind}; times must be numbers or as 2024-01-31 12:00:00"
        )
    column = pyarrow.chunked_array([part.column(0) for part in table.arrow({name: kind})], kind)
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise InputError(f"{table.argument}: row {row}: column {name} is empty")
    order = column.to_numpy()
    shown = [str(one) for one in column.to_pylist()] if pyarrow.types.is_temporal(kind) else column.to_pylist()
    return shown, order.astype("datetime64[ns]").astype(np.int64) if order.dtype.kind == "M" else order


def _check_times(order: np.ndarray, shown: Sequence[Any], argument: str, rows: np.ndarray, name: str = "") -> None:
    later = order[1:] > order[:-1]
    if not later.all():
        i = int(np.argmin(later))
        said = "repeats" if order[i + 1] == order[i] else "runs backwards"
        of = f" of series {name}" if name else ""
        raise InputError(
            f"{argument}: row {rows[i + 1]}: time{of} {said}: {shown[i + 1]} after {shown[i]}; sort the rows by time, "
            "keep one for each time, or name the series in config.data.id_column"
        )


def _label(values: np.ndarray, argument: str, rows: np.ndarray) -> np.ndarray:
    wrong = ~np.isin(values, (0, 1))
    if wrong.any():
        i = int(wrong.argmax())
        raise InputError(f"{argument}: row {rows[i]}: label is {values[i]}: must be 0 (normal) or 1 (anomaly)")
    return values.astype(np.int8)
