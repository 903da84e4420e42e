"""Recompute the pictures, printed text and cells of docs/gallery.md, docs/lectures.md and docs/notebooks.

  python launch/gallery.py OUT        a quarter of an hour on two cores; a finished run in OUT is not repeated

The pages are the source. Each block of bash or Python runs in the folder OUT, one at a time. A block of text that
follows one becomes its output. The image images/NAME-FIGURE.webp becomes the figure FIGURE.png of the run runs/NAME.
The notebooks are executed in place. Needs the packages of the extra `dev`.
"""

import functools
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

DOCS = Path(__file__).parent.parent / "docs"
PAGES = (DOCS / "gallery.md", DOCS / "lectures.md")
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
BLOCK = re.compile(
    r"(?P<code>```(?P<language>bash|python)\n(?P<source>.*?)```)(?P<text>\n+```text\n.*?```)?", re.DOTALL
)
IMAGE = re.compile(r"images/(?P<run>\w+)-(?P<figure>\w+)\.webp")


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        page.write_text(BLOCK.sub(lambda block: execute(block, out), page.read_text()))
    (DOCS / "images").mkdir(exist_ok=True)
    for page in PAGES:
        for image in IMAGE.finditer(page.read_text()):
            (figure,) = (out / "runs" / image["run"]).rglob(f"figures/{image['figure']}.png")
            Image.open(figure).save(DOCS / image[0], quality=80, method=6)
    for path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:  # empty, since an existing run would resume
            nbformat.write(notebook(path, Path(folder)), path)


def execute(block: re.Match[str], out: Path) -> str:
    """The block with its output in place of the text that follows it."""
    printed = output(block["language"], block["source"], out)
    return block["code"] + (f"\n\n```text\n{printed}```" if block["text"] else "")


@functools.cache
def output(language: str, source: str, out: Path) -> str:
    """The printed output of a block; a block that several pages share runs once."""
    start = time.perf_counter()
    command = ["bash", "-e"] if language == "bash" else [sys.executable, "-"]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        command, input=source, cwd=out, env=os.environ | {"PATH": path}, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"exit code {done.returncode} of\n{source}{done.stdout}")
    print(f"{time.perf_counter() - start:5.0f} s  {source.splitlines()[0]}", flush=True)
    return done.stdout


def notebook(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook executed in the folder, without the clock of its cells; raises at the first error."""
    cells = nbformat.read(path, as_version=4)
    return NotebookClient(
        cells,
        timeout=300,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,  # a progress bar is its last line
    ).execute()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
