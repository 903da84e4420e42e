"""The description of a dataset without its values: its fields by name, and the sizes of its splits."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from aejax import shown
from aejax.data import bags, tokens
from aejax.errors import InputError

FORMAT = 2  # of data.json
KINDS = ("image", "table", "series", "video", "tokens", "class", "box", "map")


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a dataset. `x` is the example, `y` its class."""

    kind: str  # one of KINDS
    # Of one example: (height, width, channels), (frames, height, width, channels), (columns,), (steps, channels),
    # (tokens,), or () for a class.
    shape: tuple[int, ...]
    dtype: (
        str  # of the stored values: uint8 (0..255), float32, uint16 (counts of a sparse table), int32 (class, tokens)
    )
    low: float = 0.0  # smallest and largest value, as the model sees it
    high: float = 1.0
    classes: tuple[str, ...] = ()  # of a class: names of the labels 0, 1, ...; of tokens: the vocabulary
    level: str = ""  # of tokens: characters | words
    columns: tuple[str, ...] = ()  # names of a table's input columns, or a series' channels; text: the vocabulary
    mean: tuple[float, ...] = ()  # of the model's columns or channels over the training split; () = not standardised
    deviation: tuple[float, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # of the one-hot columns
    missing: str = "error"  # what an empty cell becomes: error | mean | median | indicator | mask; series: mask
    fill: tuple[float, ...] = ()  # value that fills an empty cell of each input column; () = nothing is filled
    indicators: tuple[int, ...] = ()  # input columns that have an indicator column: 1 = the cell was empty
    sparse: bool = False  # a table kept as sparse rows, and never standardised
    text: str = ""  # weight of the words in documents: counts | tfidf | binary; "" = not documents
    idf: tuple[float, ...] = ()  # tfidf: weight of each word

    def apply(self, x: Any) -> Any:
        """Raw examples [N, ...] -> the model's examples; raises InputError.

        A text model takes strings, one per document, or rows of word weights.
        """
        if self.text and bags.is_documents(x):
            return bags.count(x, self.text, self.columns, self.idf)
        if self.kind == "tokens":
            return self.numbered(x)
        if not sparse.issparse(x):
            x = np.asarray(x)
        elif not self.sparse:
            x = x.toarray()
        if self.kind in PIXELS:
            x = PIXELS[self.kind](x, "the input")
            if x.shape[1:] != self.shape:
                raise InputError(f"the input: shape {x.shape[1:]} of an example must be {self.shape}")
            return x
        if self.kind == "series":
            return self.scale(padded(series_array(x, "the input"), self.shape))
        if x.ndim != 2 or x.shape[1] != self.width:
            raise InputError(f"the input: shape {x.shape} must be (rows, {self.width})")
        if sparse.issparse(x):
            return bags.checked(x, "the input")
        return self.scale(self.expand(table_array(x, "the input", missing=self.missing)))

    def numbered(self, x: Any) -> np.ndarray:
        """Texts, or numbers of tokens [N, tokens], as numbers of tokens; raises InputError."""
        if bags.is_documents(x):
            return tokens.encode(x, self.classes, self.level, self.shape[0], "the input")
        x = np.asarray(x)
        if x.shape[1:] != self.shape or x.dtype.kind not in "iu":
            allowed = f"must be texts, or whole numbers of shape (rows, {self.shape[0]})"
            raise InputError(f"the input: {allowed}, found {x.dtype} of shape {x.shape}")
        report((x < 0) | (x >= len(self.classes)), x, "the input", f"must lie in [0, {len(self.classes) - 1}]")
        return x.astype(np.int32)

    @property
    def width(self) -> int:
        """Number of input columns."""
        return self.shape[0] - sum(len(names) - 1 for names in self.categories.values()) - len(self.indicators)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the model's columns; () if the input columns have none."""
        if not self.columns or self.kind == "series":
            return ()
        names: list[str] = []
        for name in self.columns:
            names += (
                [f"{name}={value}" for value in self.categories.get(name, ())] if name in self.categories else [name]
            )
        return (*names, *(f"{self.columns[j]} is empty" for j in self.indicators))

    @property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """The range (start, end) of the model's columns for each one-hot column."""
        found, start = [], 0
        for name in self.columns:
            size = len(self.categories.get(name, (name,)))
            if name in self.categories:
                found.append((start, start + size))
            start += size
        return tuple(found)

    def expand(self, table: np.ndarray) -> np.ndarray:
        """Input columns, float64 [N, width] with NaN for an empty cell -> the model's columns before standardisation.

        Fills empty cells, encodes categories and appends indicators; with `mask` an empty cell stays NaN.
        """
        if not (self.categories or self.fill or self.indicators):
            return table
        empty = np.isnan(table)
        filled = np.where(empty, np.asarray(self.fill)[None], table) if self.fill else table
        parts = []
        for j in range(table.shape[1]):
            names = self.categories.get(self.columns[j]) if self.columns else None
            column = filled[:, j : j + 1]
            if names is not None:
                column = np.where(np.isnan(column), np.nan, column == np.arange(len(names))[None])
            parts.append(column)
        return np.concatenate([*parts, empty[:, list(self.indicators)].astype(np.float64)], axis=1)

    def scale(self, table: np.ndarray, column: int | slice = slice(None)) -> np.ndarray:
        """Standardise the columns of a table, or one column; a table that is not standardised is unchanged."""
        scaled = table
        with np.errstate(over="ignore", invalid="ignore"):  # reported below
            if self.mean:
                scaled = (table - np.asarray(self.mean)[column]) / np.asarray(self.deviation)[column]
            scaled = scaled.astype(np.float32)
            finite = np.isfinite(scaled.sum())  # cheaper than checking each value
        if not finite:
            report(
                ~np.isfinite(scaled) & ~np.isnan(table),
                table,
                "x",
                "overflows float32 when standardised with the training mean and deviation",
            )
        return scaled

    def prepare(self, column: int, values: np.ndarray) -> np.ndarray:
        """Fill and standardise one input column of a table without categories and indicators."""
        return self.scale(np.where(np.isnan(values), self.fill[column], values) if self.fill else values, column)

    def unscale(self, x: np.ndarray) -> np.ndarray:
        """The inverse of `scale`, for reconstructions; images are unchanged."""
        return x * np.asarray(self.deviation) + np.asarray(self.mean) if self.mean else x


@dataclasses.dataclass(frozen=True)
class Spec:
    """The description of a dataset without its values; saved with the run as data.json."""

    fields: Mapping[str, Field]
    train: int  # examples of each split
    validation: int
    test: int
    digest: str = ""  # hash of every value of every split
    format: int = FORMAT  # of the data.json that this was read from

    @property
    def x(self) -> Field:
        """The field of the examples."""
        return self.fields["x"]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels; () if there are none."""
        return self.fields["y"].classes if "y" in self.fields else ()

    def describe(self) -> str:
        """Splits, shape or columns, classes."""
        sizes = {"train": self.train, "validation": self.validation, "test": self.test}
        parts = ", ".join(f"{n:,} {name}" for name, n in sizes.items() if n)
        captions = f"captions of {_tokens(self.fields['caption'])}; " if "caption" in self.fields else ""
        labels = f"{len(self.classes)} classes" if self.classes else "no labels"
        return f"{parts} {_examples(self.x)}; {captions}{labels}"

    def _repr_html_(self) -> str:
        shape = "x".join(map(str, self.x.shape))
        splits = {"training": self.train, "validation": self.validation, "test": self.test}
        sizes = {f"{name} examples": f"{n:,}" for name, n in splits.items()}
        classes = {"classes": ", ".join(self.classes) or "no labels"}
        return shown.table(self.x.kind, {"shape": shape, **sizes, **classes, "digest": self.digest})

    def to_json(self) -> str:
        return json.dumps({**dataclasses.asdict(self), "format": FORMAT}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Spec":
        """Read data.json; format 1 has the fields of `x` and the classes of `y` at the top level; raises InputError."""
        stored = json.loads(text)
        if "fields" not in stored:
            stored = _from_format_1(stored)
        elif stored.get("format") != FORMAT:
            raise InputError(f"data.json: format must be {FORMAT}")
        fields = {name: Field(**_tuples(field)) for name, field in stored.pop("fields").items()}
        return cls(fields=fields, **stored)


def _examples(x: Field) -> str:
    if x.kind == "image":
        return f"images of {'x'.join(map(str, x.shape))}"
    if x.kind == "series":
        steps, channels = x.shape
        return f"series of {steps:,} steps and {channels:,} channel{'s' * (channels > 1)}"
    if x.kind == "video":
        return f"videos of {x.shape[0]} frames of {'x'.join(map(str, x.shape[1:]))}"
    if x.kind == "tokens":
        return f"sequences of {_tokens(x)}"
    if x.text:
        return f"documents of {x.shape[0]:,} words"
    names = f" ({', '.join(x.columns[:5])}{', ...' if len(x.columns) > 5 else ''})" if x.columns else ""
    made = f", {x.shape[0]} after encoding" if x.shape[0] != x.width else ""
    return f"rows of {x.width} columns{names}{made}"


def _tokens(field: Field) -> str:
    different = len(field.classes) - len(tokens.SPECIAL)
    return f"at most {field.shape[0] - 1} {field.level}, {different:,} different ones"


def labels(classes: tuple[str, ...]) -> dict[str, Field]:
    """The field `y` of these classes."""
    return {"y": Field("class", (), "int32", high=float(len(classes) - 1), classes=classes)} if classes else {}


def _from_format_1(stored: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: stored[name] for name in ("train", "validation", "test", "digest")}
    x = {name: value for name, value in stored.items() if name not in (*own, "classes")}
    classes = labels(tuple(stored.get("classes", ())))
    return own | {
        "format": 1,
        "fields": {"x": x} | {name: dataclasses.asdict(field) for name, field in classes.items()},
    }


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    def tupled(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _tuples(value)
        return tuple(value) if isinstance(value, list) else value

    return {name: tupled(value) for name, value in values.items()}


def image_array(x: np.ndarray, name: str, rows: np.ndarray | None = None) -> np.ndarray:
    """Images [N, H, W, C] as uint8, or as float32 in [0, 1]; raises InputError."""
    series = "; for series [N, time, channels] set config.data.kind to series" if x.ndim == 3 else ""
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4:
        raise InputError(f"{name}: images must have rank 3 (grey) or 4 (NHWC), found shape {x.shape}")
    if x.shape[1] in (1, 3, 4) and min(x.shape[2:]) > 4:
        raise InputError(
            f"{name}: shape {x.shape} seems to be [N, channels, H, W]; give [N, H, W, channels]: "
            "x.transpose(0, 2, 3, 1)"
        )
    return _pixels(x, name, rows, "images", series)


def video_array(x: np.ndarray, name: str, rows: np.ndarray | None = None) -> np.ndarray:
    """Videos [N, T, H, W, C] as uint8, or as float32 in [0, 1]; raises InputError."""
    if x.ndim not in (4, 5):
        raise InputError(
            f"{name}: videos must have rank 4 [N, frames, height, width] or 5 [N, frames, height, width, channels], "
            f"found shape {x.shape}"
        )
    return _pixels(x[..., None] if x.ndim == 4 else x, name, rows, "videos")


def _pixels(x: np.ndarray, name: str, rows: np.ndarray | None, plural: str, hint: str = "") -> np.ndarray:
    if x.dtype == np.uint8:
        return x
    if x.dtype == bool:
        return x.astype(np.float32)
    if x.dtype.kind != "f":
        raise InputError(f"{name}: {plural} must be uint8 or floats in [0, 1], found {x.dtype}")
    # Negated, so that NaN is caught too.
    report(~((x >= 0) & (x <= 1)), x, name, f"{plural} given as floats must lie in [0, 1]{hint}", rows)
    return x.astype(np.float32)


PIXELS = {"image": image_array, "video": video_array}


def series_array(x: np.ndarray, name: str, rows: np.ndarray | None = None) -> np.ndarray:
    """Series [N, time] or [N, time, channels] as float64 [N, time, channels], NaN = not observed; raises InputError."""
    if x.ndim not in (2, 3):
        raise InputError(f"{name}: series must have rank 2 [N, time] or 3 [N, time, channels], found shape {x.shape}")
    if x.dtype.kind not in "buif":
        raise InputError(f"{name}: series must hold numbers, found dtype {x.dtype}")
    series = (x[..., None] if x.ndim == 2 else x).astype(np.float64)
    report(np.abs(series) > np.finfo(np.float32).max, x, name, "series must be finite in float32, or NaN", rows)
    return series


def padded(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Series [N, t, C] of at most T steps with steps that are not there (NaN) up to `shape` (T, C); raises
    InputError."""
    steps, channels = shape
    if x.shape[2] != channels or x.shape[1] > steps:
        raise InputError(
            f"the input: shape {x.shape[1:]} of a series must be (steps, {channels}) with at most {steps} steps; cut "
            "longer series into windows"
        )
    return np.pad(x, ((0, 0), (0, steps - x.shape[1]), (0, 0)), constant_values=np.nan)


def table_array(x: np.ndarray, name: str, rows: np.ndarray | None = None, *, missing: str = "error") -> np.ndarray:
    """A table [N, D] as float64, with NaN for an empty cell unless `missing` is error; raises InputError."""
    if x.dtype == object:
        try:
            x = x.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name}: a table must hold numbers: {error}") from error
    if x.dtype.kind not in "buif":
        raise InputError(f"{name}: a table must hold numbers, found dtype {x.dtype}")
    table = x.astype(np.float64)
    finite = np.abs(table) <= np.finfo(np.float32).max  # NaN is not
    if not finite.all():
        empty = np.isnan(table)
        report(~finite & ~empty, x, name, "a table must be finite in float32", rows)
        if missing == "error":
            ways = "set config.data.missing to mean, median, indicator or mask to train with empty cells"
            report(empty, x, name, f"a table must be finite in float32; {ways}", rows)
    return table


def report(wrong: np.ndarray, x: np.ndarray, name: str, allowed: str, rows: np.ndarray | None = None) -> None:
    """Raise InputError for the first wrong value; `rows`: its row numbers, if not 0, 1, ..."""
    if wrong.any():
        place = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
        row = place[0] if rows is None else int(rows[place[0]])
        raise InputError(f"{name}{[row, *place[1:]]} = {x[place]}: {allowed}")
