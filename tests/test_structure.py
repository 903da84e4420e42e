"""The structure of the package, from its imports: no circle, no import upward, orbax in one file."""

import ast

import pytest

from common import ROOT

# From the bottom up; a module may import modules of its own layer and of those below. The longest prefix counts.
LAYERS = [
    ["errors", "shown"],
    ["fields"],
    ["parallel"],
    ["data"],
    ["models"],
    ["pairs"],
    ["losses"],
    ["methods"],
    ["experiment"],
    ["trained"],
    ["plots"],
    ["uses"],
    ["sections", "config", "cli"],
    ["storage"],
    ["training"],
    ["page", "uses.runner"],
    ["run", "recipe", "contents", "prediction", "archive"],
    ["model", "population"],
    [
        "main",
        "predict",
        "compress",
        "decompress",
        "evaluate",
        "export",
        "compare",
        "report",
        "sklearn",
        "benchmark",
        "__main__",
        "",
    ],
]
PACKAGE = ROOT / "aejax"
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in PACKAGE.rglob("*.py")
}


def imports(path):
    """The modules of the package that a file imports, anywhere in it, and the other packages."""
    inside, outside = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] != "aejax":
                outside.add(name.split(".")[0])
                continue
            own = name.removeprefix("aejax").lstrip(".")
            # A module, whose package is imported with it, or a name in one.
            inside |= {own, own.rpartition(".")[0]} if own in FILES and isinstance(node, ast.ImportFrom) else set()
            inside.add(own if own in FILES else own.rpartition(".")[0])
    return inside - {""}, outside


EDGES = {module: imports(path)[0] - {module} for module, path in FILES.items()}


def layer(module):
    """The number of the layer of a module."""
    fits = [
        (len(prefix), number)
        for number, prefixes in enumerate(LAYERS)
        for prefix in prefixes
        if module == prefix or (prefix and module.startswith(f"{prefix}."))
    ]
    return max(fits)[1]


def test_every_module_has_a_layer():
    assert all(layer(module) >= 0 for module in FILES)


def test_no_import_points_upward():
    upward = [f"{a} -> {b}" for a, targets in EDGES.items() for b in targets if layer(b) > layer(a)]
    assert not upward


def test_no_circle():
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            path.append(module)
            for target in sorted(EDGES[module]):
                visit(target)
            done.add(path.pop())

    for module in FILES:
        visit(module)


def test_only_one_file_imports_orbax():
    assert [module for module, path in FILES.items() if "orbax" in imports(path)[1]] == ["storage.checkpoint"]


@pytest.mark.parametrize("words", ["jax._src", "allow_pickle=True", "pickle.load"])
def test_no_file_holds(words):
    assert not [module for module, path in FILES.items() if words in path.read_text()]


def test_files_are_rooms_not_halls():
    assert not [module for module, path in FILES.items() if len(path.read_text().splitlines()) > 350]
