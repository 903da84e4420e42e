"""The commands: `python -m aejax`."""

import ast
from pathlib import Path

COMMANDS = ("main", "evaluate", "predict", "export", "compare", "report", "benchmark")


def text() -> str:
    """One line per command: the first line of its docstring, read without importing the command."""
    lines = []
    for name in COMMANDS:
        path = Path(__file__).parent / name
        source = (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
        summary = (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
        lines.append(f"  python -m aejax.{name:10} {summary}")
    return "\n".join(["aejax: autoencoders in JAX and Flax. The commands, each with --help:", "", *lines])


if __name__ == "__main__":
    print(text())
