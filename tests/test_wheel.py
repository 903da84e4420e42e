"""The wheel alone, in an environment of its own: what a user gets who has no checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

from common import CONFIGS, ROOT

pytestmark = pytest.mark.slow
NEEDED = ("pyproject.toml", "README.md", "LICENSE", "requirements.txt", "aejax", "configs")  # to build it


def call(*arguments, cwd, **kwargs):
    """The output of a command that must succeed; it does not see the checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **kwargs,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the checkout: a build leaves files behind."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index")
    call(*pip, "--wheel-dir=dist", ".", cwd=copy)
    (file,) = (copy / "dist").glob("aejax-*.whl")
    return file


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The Python of a new environment with the wheel and the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    found = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    packages = call(found, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    # These folders come after the environment's own. Their .pth files, as of an editable install, are not read.
    own = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (folder.joinpath(packages) / "dependencies.pth").write_text("\n".join(own) + "\n")
    install = (sys.executable, "-m", "pip", "--python", found, "install", "--no-deps", "--no-index")
    call(*install, "--ignore-installed", wheel, cwd=folder)
    return found


def test_it_holds_every_file(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "aejax").rglob("*.py")}
    data = {
        "aejax/page/report.html",
        "aejax/data/sources/docstrings.csv.gz",
        "aejax/data/sources/docstrings.LICENSE.txt",
    }
    configs = {f"aejax/configs/{path.name}" for path in CONFIGS}
    assert {name for name in held if name.startswith("aejax/")} == modules | data | configs


def test_it_is_what_is_imported(python, tmp_path):
    code = "import aejax, aejax.configs.vae; from aejax import config; print(aejax.__file__, config.SHIPPED, sep='\\n')"
    for line in call(python, "-c", code, cwd=tmp_path).splitlines():
        assert line.startswith(str(python.parents[1]))


@pytest.mark.parametrize("config", ["vae", "ae:digits"])
def test_it_trains(config, python, tmp_path):
    flags = (f"--config={config}", "--config.train.epochs=1", "--workdir=run")
    call(python, "-m", "aejax.main", *flags, cwd=tmp_path)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["epochs"] == 1
    name = config.partition(":")[0]
    assert f"python -m aejax.main --config={name}:digits" in (tmp_path / "run" / "report.html").read_text()


def test_it_has_the_estimator(python, tmp_path):
    code = """
import numpy as np
from aejax.sklearn import Autoencoder

x = np.random.default_rng(0).uniform(size=(40, 6, 6))
print(*Autoencoder("vae", train__epochs=1).fit(x).transform(x).shape)
"""
    assert call(python, "-c", code, cwd=tmp_path).split() == ["40", "20"]


def test_it_has_the_data_of_its_sources(python, tmp_path):
    code = """
from aejax import config
from aejax.data import sources

print(sources.load(config.default("docstrings")).spec.train)
"""
    assert call(python, "-c", code, cwd=tmp_path).split() == ["1630"]
