"""The format of a CSV file, detected from its beginning: encoding, separator, decimal sign, header, index column.

A guess is never silent: `Dialect.notes` lists each finding that is not the default. An ambiguous file is refused with
the name of the field that decides.
"""

import codecs
import csv
import io
import itertools
import lzma
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from aejax.errors import FieldError, InputError

SAMPLE = 2**18  # bytes that are inspected
LINES = 100  # rows that are inspected
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
NULLS = {"", "na", "n/a", "#n/a", "nan", "-nan", "null", "none", "<na>", "#na", "1.#qnan", "1.#ind", "-1.#ind"}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)
MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}


class Dialect(NamedTuple):
    """How a CSV file is written."""

    separator: str
    decimal: str
    encoding: str
    header: bool
    indexed: bool  # the first column numbers the rows and has no name
    notes: tuple[str, ...]


def opened(path: Path) -> Any:
    """A stream of the decompressed bytes of a file, or its path if it is not compressed; the suffix is ignored."""
    import pyarrow

    with open(path, "rb") as file:
        start = file.read(6)
    if start[:4] == b"PK\x03\x04":
        raise InputError(f"{path}: is a zip archive; unpack it")
    if start == b"\xfd7zXZ\x00":
        return lzma.open(path)
    for magic, name in MAGIC.items():
        if start.startswith(magic):
            return pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), name)
    return str(path)


def detect(path: Path, config: ConfigDict) -> Dialect:
    """The dialect of a CSV file; data.separator, decimal, encoding and header override the detection."""
    data, notes = config.data, []
    raw = _start(path)
    encoding = data.encoding
    if encoding == "auto":
        encoding = _encoding(raw)
        if encoding not in ("utf-8", "utf-8-sig"):
            notes.append(f"encoding {encoding}")
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(raw)
    except (UnicodeDecodeError, LookupError) as error:
        raise FieldError("data.encoding", encoding, f"does not fit {path}: {error}") from error
    whole = len(raw) < SAMPLE
    if not text.strip():
        raise InputError(f"{path}: no rows")
    separator = {"tab": "\t"}.get(data.separator, data.separator)
    decimal = data.decimal
    if separator == "auto":
        separator = _separator(path, text, decimal, whole)
    if separator != ",":
        notes.append(f"separator {SEPARATORS.get(separator, repr(separator))}")
    rows = _rows(text, separator, whole)
    if decimal == "auto":
        decimal = _decimal(path, rows, separator)
    if decimal != ".":
        notes.append("decimal comma")
    rows = [[cell.strip() for cell in row] for row in rows]
    if data.header == "auto":
        header, said = _header(path, rows, decimal)
        notes += said
    else:
        header = data.header == "yes"
    index = header and _is_index(rows)
    if index:
        notes.append("left out: the first column, which numbers the rows")
    return Dialect(separator, decimal, encoding, header, index, tuple(notes))


def _start(path: Path) -> bytes:
    source = opened(path)
    try:
        with open(source, "rb") if isinstance(source, str) else source as file:
            return bytes(file.read(SAMPLE))
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _encoding(raw: bytes) -> str:
    if raw.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(raw)
    except UnicodeDecodeError:
        return "cp1252" if not any(byte in raw for byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D)) else "latin-1"
    return "utf-8"


def _rows(text: str, separator: str, whole: bool) -> list[list[str]]:
    """The first rows that are not empty; the last row of a truncated sample is dropped, since it may be incomplete."""
    normal = text.replace("\r\n", "\n").replace("\r", "\n")
    reader = csv.reader(io.StringIO(normal), delimiter=separator)
    rows = []
    try:
        for row in itertools.islice(reader, LINES + 1):
            if row:
                rows.append(row)
    except csv.Error:  # a cell exceeds csv's limit: the rows before it suffice
        pass
    return rows if whole and len(rows) <= LINES else rows[:-1] or rows


def _separator(path: Path, text: str, decimal: str, whole: bool) -> str:
    """The separator that gives all rows the same number of cells; of several, the one that gives most numbers."""
    fits = {}
    for candidate in SEPARATORS:
        rows = _rows(text, candidate, whole)
        widths = {len(row) for row in rows}
        if len(widths) == 1 and widths != {1}:
            cells = [cell.strip() for row in rows[1:] or rows for cell in row]
            numbers = sum(
                is_number(c, ".") or (candidate != "," and decimal != "." and is_number(c, ",")) for c in cells
            )
            odd = sum(any(other in c for other in SEPARATORS) and not is_number(c, ",") for c in cells)
            fits[candidate] = ((numbers - odd) / len(cells), widths.pop())
    if not fits:
        first = _rows(text, ",", whole)
        if len({len(row) for row in first}) == 1:  # one column
            spaced = [row[0].split() for row in first if row]
            if len({len(cells) for cells in spaced}) == 1 and len(spaced[0]) > 1 and _numeric(spaced[-1]):
                raise FieldError(
                    "data.separator", "auto", f"{path} seems to be separated by spaces: write commas instead"
                )
            return ","
        counts = sorted({len(row) for row in first})
        allowed = f"rows of {path} have {counts[0]} to {counts[-1]} cells; name the separator: comma , ; tab or |"
        raise FieldError("data.separator", "auto", allowed)
    best = max(fits, key=lambda name: fits[name])
    rivals = [name for name in fits if name != best and fits[name][0] == fits[best][0] > 0]
    if rivals:
        both = " and ".join(SEPARATORS[name] for name in (best, *rivals))
        raise FieldError("data.separator", "auto", f"{path} can be read with {both}; name one of them")
    return best


def _decimal(path: Path, rows: Sequence[Sequence[str]], separator: str) -> str:
    if separator == ",":
        return "."
    cells = [cell.strip() for row in rows[1:] or rows for cell in row]
    commas = [cell for cell in cells if "," in cell and is_number(cell, ",")]
    points = [cell for cell in cells if "." in cell and is_number(cell, ".")]
    if not commas:
        return "."
    if points:
        raise FieldError("data.decimal", "auto", f"{path} holds {commas[0]!r} and {points[0]!r}; name the decimal sign")
    if all(re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", cell) for cell in commas):
        allowed = (
            f"{commas[0]!r} in {path} may have a thousands separator or a decimal comma; name the decimal sign, or "
            "remove the separators"
        )
        raise FieldError("data.decimal", "auto", allowed)
    return ","


def _header(path: Path, rows: Sequence[Sequence[str]], decimal: str) -> tuple[bool, list[str]]:
    """Whether the first row is a header, and the notes on it.

    It is one if the first cell of a numeric column is not a number. If all numeric columns begin with a number, it is a
    header if its numbers are evenly spaced, such as wavelengths or 0, 1, 2, ..., and those of the other rows are not.
    """
    first, body = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    if not body:
        if _numeric(first, decimal):
            return False, ["no header: one row of numbers"]
        return True, []
    numeric = [j for j in range(len(first)) if all(is_number(row[j], decimal) or _is_null(row[j]) for row in body)]
    numeric = [j for j in numeric if any(is_number(row[j], decimal) for row in body)]
    named = [j for j in numeric if not is_number(first[j], decimal) and not _is_null(first[j])]
    if not numeric or named:
        return True, []
    cells = [first[j] for j in numeric if not _is_null(first[j])]
    if len(set(cells)) < len(cells) or not cells:
        return False, ["no header: the first line is a row"]
    head = [_value(cell, decimal) for cell in cells]
    even = len(head) > 1 and _is_even(head)
    rows_even = sum(
        _is_even([_value(row[j], decimal) for j in numeric])
        for row in body
        if all(is_number(row[j], decimal) for j in numeric)
    )
    if not even:
        return False, ["no header: the first line is a row"]
    if len(head) == 2:  # two numbers are always evenly spaced: integers above fractions are names
        whole_names = all(cell.lstrip("-").isdecimal() for cell in cells)
        if not whole_names:
            return False, ["no header: the first line is a row"]
        clear = all(any(not row[j].lstrip("-").isdecimal() and row[j] for row in body) for j in numeric)
    else:
        clear = rows_even < 0.2 * len(body)
    if clear:
        return True, [f"header: the numbers {cells[0]}, {cells[1]}, ... are the names of the columns"]
    allowed = f"the first line of {path}, {', '.join(cells[:4])}, may be names or a row; set it to yes or no"
    raise FieldError("data.header", "auto", allowed)


def _is_even(values: Sequence[float]) -> bool:
    """Whether the numbers rise or fall in equal steps."""
    steps = [b - a for a, b in itertools.pairwise(values)]
    if not steps or steps[0] == 0:
        return False
    return all(abs(step - steps[0]) <= 0.01 * abs(steps[0]) for step in steps)


def _is_index(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first column has no name (or pandas' name for that) and counts the rows from 0."""
    name, body = rows[0][0], [row[0] for row in rows[1:]]
    unnamed = name in ("", "Unnamed: 0")
    return unnamed and len(rows[0]) > 1 and body == [str(i) for i in range(len(body))]


def _numeric(cells: Sequence[str], decimal: str = ".") -> bool:
    return all(is_number(cell, decimal) for cell in cells)


def _is_null(cell: str) -> bool:
    return cell.lower() in NULLS


def is_number(cell: str, decimal: str) -> bool:
    if decimal != ".":
        if "." in cell:
            return False
        cell = cell.replace(decimal, ".")
    return NUMBER.fullmatch(cell) is not None


def _value(cell: str, decimal: str) -> float:
    return float(cell.replace(decimal, ".") if decimal != "." else cell)
