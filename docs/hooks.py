"""The parts of the site that are generated from the code: fields of the config, commands, results.

A page holds markers. The build replaces

  <!-- generated: config -->                   by the text of the function of that name in GENERATED
  <!-- source: aejax.losses.Penalty -->        by the source of that class
  <!-- file: docs/examples/service.py -->      by the file
"""

import functools
import inspect
import pkgutil
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import orbax.checkpoint  # noqa: F401  (has flags of its own, which no command should list as its)
from absl import flags

from aejax import __main__ as commands_lib
from aejax import cli
from aejax import config as config_lib
from aejax.fields import Declared, declared
from aejax.page import results as results_lib
from aejax.sections import Stage
from aejax.uses import USES

MARKER = re.compile(r"^<!-- (generated|source|file): ([\w./]+) -->$", re.MULTILINE)
ROOT = Path(__file__).parent.parent
LANGUAGES = {".py": "python", "": "dockerfile"}


class Command(NamedTuple):
    """A command: its description, and its flags by name."""

    about: str
    flags: dict[str, flags.Flag]


@functools.cache
def commands() -> dict[str, Command]:
    """The commands by name. Each is run up to the point at which it would parse its command line."""
    found = {}
    for name in commands_lib.COMMANDS:
        found[name] = _command(f"aejax.{name}")
    return found


def _command(module: str) -> Command:
    before, run, argv = set(flags.FLAGS), cli.run, sys.argv
    cli.run, sys.argv = lambda *_, **__: None, [module]
    try:
        about = runpy.run_module(module, run_name="__main__")["__doc__"]
    finally:
        cli.run, sys.argv = run, argv
    own = {name: flags.FLAGS[name] for name in flags.FLAGS if name not in before}
    for name in own:
        delattr(flags.FLAGS, name)  # the next command may have a flag of the same name
    return Command(about, own)


def commands_text() -> str:
    parts = []
    for name, command in commands().items():
        title, _, rest = command.about.strip().partition("\n")
        rows = [
            [f"`--{flag.name}`", _cell(re.sub(r"^<.*?>: ", "", flag.help)), _value(flag)]
            for flag in command.flags.values()
        ]
        usage = f"```text\n{rest.strip(chr(10))}\n```"
        parts += [f"## {name}", title, usage, _table(["flag", "meaning", "values and default"], rows)]
    return "\n\n".join(parts)


def _value(flag: flags.Flag) -> str:
    """The allowed values of a flag, the default in bold."""
    choices = [value for value in getattr(flag.parser, "enum_values", []) if value]
    if choices:
        return ", ".join(f"**`{value}`**" if value == flag.default else f"`{value}`" for value in choices)
    kind = {"string": "text", "int": "whole number", "float": "number", "bool": "true or false"}
    shown = kind.get(flag.flag_type(), "names, with commas" if "list" in flag.flag_type() else "text")
    return shown if flag.default in (None, "", []) else f"{shown}; **`{_literal(flag.default)}`**"


def config_text() -> str:
    sections: dict[str, list[list[str]]] = {}
    for path, field in config_lib.declared().items():
        section, _, name = path.rpartition(".")
        sections.setdefault(section, []).append(_field(name, field))
    parts = []
    for section, rows in sections.items():
        title = f"## {section}" if section else "## The top level"
        parts += [title, _table(["field = default", "meaning", "allowed"], rows)]
    rows = [_field(name, field) for name, field in declared(Stage).items()]
    parts += [
        "## pretrain.default, pretrain.stage_0, ...",
        "The sections of the stages. They hold these fields, and the sections `pair`, `method`, `objective` and "
        "`optim` as above. A field of a stage follows `pretrain.default` until it is set.",
        _table(["field = default", "meaning", "allowed"], rows),
    ]
    return "\n\n".join(parts)


def _field(name: str, field: Declared) -> list[str]:
    allowed = "" if field.allowed is None else str(field.allowed)
    for verb in ("be one of ", "be a tuple of ", "lie ", "be "):
        if allowed.startswith(verb):
            allowed = {"be a tuple of ": "tuple of ", "lie ": ""}.get(verb, "") + allowed.removeprefix(verb)
            break
    kind = "tuple" if field.default is None else type(field.default).__name__
    kind = {"bool": "True, False", "str": "text", "int": "integer", "float": "number"}.get(kind, kind)
    return [f"`{name} = {_literal(field.default)}`", _cell(field.about), _cell(allowed or kind)]


def results_text() -> str:
    meanings = dict(results_lib.ABOUT)
    for use in USES.values():
        for name, metric in use.metrics.items():
            meanings[name] = results_lib.about(name) + (f"; {metric.better} is better" if metric.better else "")
    return _table(["name", "meaning and unit"], [[f"`{name}`", _cell(about)] for name, about in meanings.items()])


def source(name: str) -> str:
    """The source of a class: a contract, which has the meaning of its fields in comments."""
    return f"```python\n{inspect.getsource(pkgutil.resolve_name(name))}```"


def file(name: str) -> str:
    """A file: code as a block, a drawing and Markdown as they are."""
    path = ROOT / name
    text = path.read_text().rstrip()
    if path.suffix in LANGUAGES:
        return f"```{LANGUAGES[path.suffix]}\n{text}\n```"
    return f"<div>\n{text}\n</div>" if path.suffix == ".svg" else text


GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands_text,
    "config": config_text,
    "results": results_text,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    kinds = {"generated": lambda name: GENERATED[name](), "source": source, "file": file}
    return MARKER.sub(lambda match: kinds[match[1]](match[2]), markdown)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _literal(value: Any) -> str:
    return "null" if value is None else repr(value).replace("'", '"')


def _cell(text: str) -> str:
    """A text as it stands, in a cell of a table of Markdown."""
    return re.sub(r"([\\|*\[])", r"\\\1", text).replace("<", "&lt;")
