"""The data of the source docstrings, from the installed NumPy and SciPy: one document for each public object.

  python launch/docstrings.py [FOLDER]      FOLDER: aejax/data/sources, unless given

The script writes docstrings.csv.gz (columns text, label, name) and docstrings.LICENSE.txt, and prints the versions
and the number of documents of each label. The shipped file is of NumPy 2.4.6 and SciPy 1.17.1; another version gives
another file. The same versions give the same bytes.

A document is the docstring of a function, ufunc or class without code, formulas, examples and references. Its label
is the subpackage. Qualified names (numpy.linalg.norm, stats.norm) and the words NumPy and SciPy are taken out, because
they tell the label.
"""

import collections
import csv
import gzip
import importlib
import importlib.metadata
import inspect
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = ("NumPy", "SciPy")
# The public namespaces, in the order in which they claim an object that several of them hold.
# fmt: off
NAMESPACES = (
    "numpy", "numpy.fft", "numpy.linalg", "numpy.ma", "numpy.ma.mrecords", "numpy.random", "numpy.strings",
    "numpy.char", "numpy.rec", "numpy.testing", "numpy.polynomial", "numpy.polynomial.polynomial",
    "numpy.polynomial.chebyshev", "numpy.polynomial.hermite", "numpy.polynomial.hermite_e",
    "numpy.polynomial.laguerre", "numpy.polynomial.legendre", "numpy.polynomial.polyutils", "numpy.ctypeslib",
    "numpy.dtypes", "numpy.exceptions", "numpy.lib", "numpy.lib.array_utils", "numpy.lib.introspect",
    "numpy.lib.mixins", "numpy.lib.npyio", "numpy.lib.scimath", "numpy.lib.stride_tricks", "scipy",
    "scipy.cluster.hierarchy", "scipy.cluster.vq", "scipy.constants", "scipy.datasets", "scipy.differentiate",
    "scipy.fft", "scipy.integrate", "scipy.interpolate", "scipy.io", "scipy.io.arff", "scipy.io.matlab",
    "scipy.io.wavfile", "scipy.linalg", "scipy.linalg.blas", "scipy.linalg.lapack", "scipy.linalg.interpolative",
    "scipy.ndimage", "scipy.odr", "scipy.optimize", "scipy.optimize.elementwise", "scipy.signal",
    "scipy.signal.windows", "scipy.sparse", "scipy.sparse.csgraph", "scipy.sparse.linalg", "scipy.spatial",
    "scipy.spatial.distance", "scipy.spatial.transform", "scipy.special", "scipy.stats", "scipy.stats.contingency",
    "scipy.stats.mstats", "scipy.stats.qmc", "scipy.stats.sampling", "scipy.fftpack",
)
# fmt: on
SHORTEST = 30  # words of a document
FEWEST = 30  # documents of a label

KEPT = ("parameters", "returns", "notes")  # sections; a heading that is neither here nor below is one inside a section
LEFT_OUT = (
    *("attributes", "example", "examples", "methods", "other parameters", "raises", "receives", "references"),
    *("see also", "warning", "warnings", "warns", "yields"),
)
# These directives are removed with their blocks; the text of other directives is kept.
DIRECTIVES = (
    "code|code-block|currentmodule|deprecated|figure|highlight|image|index|legacy|math|only|plot|table|versionadded|"
    "versionchanged"
)
BLOCKS = rf"(\s*)\.\.\s+((?:{DIRECTIVES}) ?::|[\[|_])"
SIGNATURE = r"(?:[\w.]+\((?:[^()]|\([^()]*\))*\)(?: ?->.*)?\s*\n\s*)+"  # the first line of a compiled function's
SUBPACKAGES = "|".join(sorted({name.split(".")[1] for name in NAMESPACES if "." in name}))
CUTS = (  # regular expressions of text to remove, and the replacements
    (r":math:`[^`]*`", " "),
    (r":(?:ref|doc):`([^`<]*?)\s*<[^`]*>`", r"\1"),
    (r":(?:ref|doc):`[^`]*`", " "),
    (r":(?:\w+[:-])*\w+:(?=`)", " "),  # other roles
    (r"(?m)^:[A-Z][^:`]*:.*$", " "),  # platform names of NumPy's types
    (r"\[[\w*]+\]_", " "),
    (r"https?://\S+", " "),
    (r"\.\.\s+[\w-]+ ?::", " "),
    (r"(?m)^[\s=+|~^*-]+$", "\n"),  # rules of tables and headings
    (r"(?i)\b(?:numpy|scipy|np|sp|sps|spl)(?:\.\w+)+", " "),
    (rf"\b(?:{SUBPACKAGES})(?:\.\w+)+", " "),
    (r"(?i)\w*(?:numpy|scipy)\w*", " "),
    (r"\b(?:np|sp)\b", " "),
    (r"[`~]+", ""),
    (r"\s+", " "),
)


def main(folder: Path) -> None:
    content = io.StringIO(newline="")
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(("text", "label", "name"))
    found = documents()
    writer.writerows(found)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as file:
        file.write(content.getvalue().encode())
    (folder / "docstrings.csv.gz").write_bytes(packed.getvalue())
    (folder / "docstrings.LICENSE.txt").write_text(licences())
    for label, count in sorted(collections.Counter(label for _, label, _ in found).items()):
        print(f"{label:20} {count:5}")
    print(f"{versions()}: {len(found)} documents, {len(packed.getvalue())} bytes")


def versions() -> str:
    return " and ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)


def licences() -> str:
    """The licences of the docstrings: the part of each package's licence file before its bundled software."""
    parts = [f"docstrings.csv.gz holds docstrings of {versions()}, shortened, under the licences of these projects.\n"]
    for name in PACKAGES:
        files = importlib.metadata.files(name) or ()
        file = next(f for f in files if f.name == "LICENSE.txt" and ".dist-info" in str(f))
        parts.append(f"{name}\n\n{file.read_text().split('----')[0].strip()}\n")
    return "\n\n".join(parts)


def documents() -> list[tuple[str, str, str]]:
    """(text, label, qualified name) of each document, in the order of the names; no text comes twice."""
    taken: dict[str, tuple[str, str]] = {}
    for namespace in NAMESPACES:
        label = ".".join(namespace.split(".")[:2])
        for name, thing in public(importlib.import_module(namespace)):
            text = prose(thing.__doc__ or "")
            if len(re.findall(r"\w\w+", text)) >= SHORTEST:
                taken.setdefault(text, (label, f"{namespace}.{name}"))
    counts = collections.Counter(label for label, _ in taken.values())
    rows = [(text, label, name) for text, (label, name) in taken.items() if counts[label] >= FEWEST]
    return sorted(rows, key=lambda row: row[2])


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """(name, object) of each function, ufunc and class of a module; an object's own name comes before its aliases."""
    names = [name for name in getattr(module, "__all__", dir(module)) if not name.startswith("_")]
    things = [(name, getattr(module, name)) for name in names]
    for name, thing in sorted(things, key=lambda pair: (getattr(pair[1], "__name__", "") != pair[0], pair[0])):
        if inspect.isclass(thing) or inspect.isroutine(thing) or type(thing).__name__ in ("ufunc", "MultiUFunc"):
            yield name, thing


def prose(docstring: str) -> str:
    """The words of a docstring on one line: its summary, Parameters, Returns and Notes."""
    text = inspect.cleandoc(docstring)
    text = re.sub(rf"\A{SIGNATURE}", "", text)
    text = re.sub(r"(?s)\*\*Array API Standard Support\*\*.*?dev-arrayapi` for more information\.", "", text)
    text = "\n".join(without_code(sections(inspect.cleandoc(text).split("\n"))))
    for pattern, replacement in CUTS:
        text = re.sub(pattern, replacement, text)
    return text.strip()


def sections(lines: list[str]) -> Iterator[str]:
    """The lines of the sections that are kept, without their headings."""
    kept = True
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if re.fullmatch(r"\s*(-{3,}|={3,})\s*", following) and line.strip():
            title = line.strip().lower().rstrip(":")
            if title in KEPT or title in LEFT_OUT:
                kept = title in KEPT
                continue
        if kept:
            yield line


def without_code(lines: Iterator[str]) -> Iterator[str]:
    """The lines that are outside doctests and outside blocks of code or formulas."""
    depth, doctest = -1, False  # the indentation of the block's first line
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            doctest = False
        elif depth >= 0 and indent <= depth:
            depth = -1
        if match := re.match(BLOCKS, line):
            depth = len(match[1])
        doctest = doctest or line.lstrip().startswith(">>>")
        if depth < 0 and not doctest:
            literal = line.rstrip().endswith("::") and not line.lstrip().startswith("..")
            yield line.rstrip()[:-1] if literal else line
            if literal:
                depth = indent


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "aejax" / "data" / "sources")
