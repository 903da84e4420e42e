"""The commands: `python -m aejax`."""

import ast
import sys
from pathlib import Path

from aejax.errors import did_you_mean

COMMANDS = ("main", "evaluate", "predict", "compress", "decompress", "export", "compare", "report", "benchmark")


def text() -> str:
    """One line per command: the first line of its docstring, read without importing the command."""
    lines = []
    for name in COMMANDS:
        path = Path(__file__).parent / name
        source = (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
        summary = (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
        lines.append(f"  python -m aejax.{name:11} {summary}")
    return "\n".join(["aejax: autoencoders in JAX and Flax. The commands, each with --help:", "", *lines])


def main(arguments: list[str]) -> int:
    """Print the commands; 2 if something else was asked for."""
    asked = [name for name in arguments if not name.startswith("-")]
    if not asked:
        print(text())
        return 0
    near = f"; write python -m aejax.{asked[0]}" if asked[0] in COMMANDS else did_you_mean(asked[0], COMMANDS)
    print(f"aejax: {asked[0]!r}: a command is a module, such as python -m aejax.main{near}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
