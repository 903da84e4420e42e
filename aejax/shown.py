"""Representations of an object: text in a terminal, a table in a notebook."""

import html
from collections.abc import Mapping


def text(title: str, rows: Mapping[str, object]) -> str:
    """A title, and a line for each row."""
    return "\n".join([title, *(f"  {name}: {value}" for name, value in rows.items())])


def table(title: str, rows: Mapping[str, object]) -> str:
    """The same as HTML."""
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table><caption style='text-align:left'>{html.escape(title)}</caption>{cells}</table>"
