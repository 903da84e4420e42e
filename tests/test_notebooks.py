"""The notebooks run without error; the gallery shows every config; the page of the lectures computes what it says."""

import functools
import runpy
import time

import pytest

from aejax import run as run_lib
from common import CONFIGS, ROOT, get_config

DOCS = ROOT / "docs"


@functools.cache
def gallery():
    """The names of launch/gallery.py; its packages take seconds to import."""
    return runpy.run_path(str(ROOT / "launch" / "gallery.py"))


@pytest.fixture(params=sorted((DOCS / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def notebook(request):
    return request.param


def outputs(cells):
    return [output for cell in cells.cells for output in cell.get("outputs", ())]


def test_the_gallery_shows_every_config():
    text = (DOCS / "gallery.md").read_text()
    assert [config.stem for config in CONFIGS if f"python -m aejax.main --config={config.stem} " not in text] == []


@pytest.mark.slow
def test_the_images_are_those_of_the_pages():
    shown = {image[0] for page in gallery()["PAGES"] for image in gallery()["IMAGE"].finditer(page.read_text())}
    assert shown == {f"images/{path.name}" for path in (DOCS / "images").glob("*.webp")}
    assert sum(path.stat().st_size for path in (DOCS / "images").iterdir()) < 2.5e6


@pytest.mark.slow
def test_a_notebook_is_stored_with_its_outputs(notebook):
    nbformat = gallery()["nbformat"]
    cells = nbformat.read(notebook, as_version=4)
    nbformat.validate(cells)
    kinds = {output.output_type for output in outputs(cells)}
    assert "error" not in kinds
    assert any("image/png" in output.get("data", {}) for output in outputs(cells))
    assert all(cell.execution_count for cell in cells.cells if cell.cell_type == "code")
    assert str(ROOT) not in notebook.read_text()


@pytest.mark.slow
def test_a_notebook_runs_without_error(notebook, tmp_path):
    start = time.perf_counter()
    executed = gallery()["notebook"](notebook, tmp_path)
    print(f"{notebook.name}: {time.perf_counter() - start:.0f} s")
    assert "error" not in {output.output_type for output in outputs(executed)}
    assert any("image/png" in output.get("data", {}) for output in outputs(executed))


@pytest.mark.slow
def test_the_entropies_of_the_lectures_add_up(tmp_path, monkeypatch, capsys):
    run_lib.run(get_config("vae", train__epochs=2, figures__enabled=False), tmp_path / "runs" / "vae")
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    blocks = [block["source"] for block in gallery()["BLOCK"].finditer((DOCS / "lectures.md").read_text())]
    (script,) = (block for block in blocks if "rel_entr" in block)
    exec(script, {})  # it asserts H(p, q) = H(p) + KL(p ‖ q)
    *_, total = capsys.readouterr().out.splitlines()
    ours, theirs = (float(part.split()[-1]) for part in total.split(";"))
    assert ours == pytest.approx(theirs, abs=2e-3)
