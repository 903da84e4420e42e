"""README.md and docs/: every command is parsed and its config resolved, some run; Python compiles and imports."""

import ast
import importlib
import inspect
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import threading
import types
import urllib.error
import urllib.request
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

import aejax
from aejax import config as config_lib
from aejax import export
from aejax.losses import PENALTIES
from aejax.uses import USES
from common import ROOT, small, table
from test_cli import command  # noqa: F401  (a fixture)

# Of ml_collections, which loads the file of a config so.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

FENCE = re.compile(r"(?:^<!-- needs: (?P<needs>.+) -->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
EXAMPLES = ROOT / "docs" / "examples"
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


class Block(NamedTuple):
    """A fenced block of a document."""

    file: str
    needs: str  # a cluster, a GPU, data: what the tests have not; "" = nothing
    kind: str  # bash, python, ...
    text: str

    def commands(self):
        """The commands of aejax, each as its arguments; variables of the environment are left out."""
        lines = [shlex.split(line, comments=True) for line in self.text.replace("\\\n", " ").splitlines()]
        lines = [[word for i, word in enumerate(line) if i or not re.match(r"[A-Z_]+=", word)] for line in lines]
        return [line for line in lines if line[:2] == ["python", "-m"] and line[2].startswith("aejax")]


BLOCKS = [
    Block(str(path.relative_to(ROOT)), match["needs"] or "", match["kind"], match["text"])
    for path in FILES
    for match in FENCE.finditer(path.read_text())
]
COMMANDS = sorted(
    {(block.file, shlex.join(line)) for block in BLOCKS if block.kind == "bash" for line in block.commands()}
)
PYTHON = [block for block in BLOCKS if block.kind == "python"]


def name(block):
    return f"{block.file}:{block.text.splitlines()[0][:40]}"


@pytest.fixture(scope="module")
def known():
    """The flags of each command: name -> allowed values, or None. In a process, since commands share names of flags."""
    script = (
        "import json, sys; sys.path.insert(0, 'docs'); import hooks\n"
        "values = lambda flag: getattr(flag.parser, 'enum_values', None)\n"
        "found = {n: {f: values(flag) for f, flag in c.flags.items()} for n, c in hooks.commands().items()}\n"
        "print(json.dumps(found))"
    )
    made = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(made.stdout)


def test_the_readme_is_short_and_keeps_the_lines_that_ci_runs():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 1000
    for line in ("pip install .*", r"python -m aejax\.main --config=configs/vae\.py", "python -m pytest"):
        assert re.search(f"^{line}$", text, re.M), line


def test_every_field_in_the_text_exists():
    """`train.epochs`, `data.missing=mask`, `--config.optim.clip=1`, and sections such as `pair.denoise`."""
    config, found = config_lib.default(), 0
    config_lib.stages(config, 2)
    for path in FILES:
        if path.stem == "add_a_part":  # whose parts are examples
            continue
        for field in re.findall(r"`(?:--)?(?:config\.)?([a-z_]+\.[a-z_0-9.]+)(?:=[^`]*)?`", path.read_text()):
            section, _, name = field.partition(".")
            method = section == "model" and hasattr(aejax.Model, name)  # `model.save` in Python
            if section in config and not method and not field.endswith((".py", ".json", ".")):
                config_lib.get(config, field)  # raises
                found += 1
    assert found > 50


@pytest.mark.slow
def test_every_flag_exists(known):
    assert len(COMMANDS) > 40
    for file, text in COMMANDS:
        module, *arguments = shlex.split(text)[2:]
        own = known[module.removeprefix("aejax.")] if module != "aejax" else {}
        for argument in arguments:
            where = f"{file}: {text}: {argument}"
            if not argument.startswith("--"):
                assert module == "aejax.compare", where
                continue
            flag, _, value = argument.removeprefix("--").partition("=")
            use, _, field = flag.partition(".")
            if module == "aejax.evaluate" and field:
                assert field in config_lib.default().uses[use], where
            elif not flag.startswith("config."):
                assert flag in own, where
                assert not own[flag] or value in own[flag], where
            if module == "aejax.evaluate" and flag == "use":
                assert set(value.split(",")) <= {*USES, "all"}, where


@pytest.mark.parametrize(
    "text", [text for _, text in COMMANDS if text.split()[2] in ("aejax.main", "aejax.benchmark")], ids=lambda t: t[10:]
)
def test_every_config_resolves(text, command):  # noqa: F811
    arguments, before = [a for a in shlex.split(text)[3:] if a.startswith("--config")], dict(PENALTIES)
    try:
        assert "model.name = " in command(*arguments, "--print_config")[0]
    finally:  # one of the configs registers a penalty
        PENALTIES.clear()
        PENALTIES.update(before)


@pytest.mark.parametrize("block", PYTHON, ids=name)
def test_python_compiles_and_what_it_imports_exists(block):
    tree, set_at_start = ast.parse(block.text), inspect.getsource(aejax.Model.__init__)
    for node in ast.walk(tree):
        if block.needs and isinstance(node, ast.ImportFrom | ast.Import):
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        # Attributes of the package, and of a variable `model`, which is always a trained model.
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner, attribute = node.value.id, node.attr
            if owner == "aejax" and attribute != "sklearn":
                assert hasattr(aejax, attribute), attribute
            if owner == "model":
                assert hasattr(aejax.Model, attribute) or f"self.{attribute}" in set_at_start, attribute


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_compile(path):
    compile(path.read_text(), path, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["service", "ray_job", "spark_job"])
def test_flags_of_the_examples(name):
    made = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", "--help"], capture_output=True, text=True, check=True
    )
    usage = re.sub(r"\s+", " ", made.stdout)
    for block in BLOCKS:
        for line in block.text.splitlines():
            if f"{name}.py" in line and block.kind in ("bash", "text"):
                assert all(flag in usage for flag in re.findall(r"--\w+", line)), line
    assert "usage: " in usage


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """An exported file of scores; rows of a table, and their scores."""
    frame = pd.DataFrame(table(), columns=list("abcdefg"))
    model, file = aejax.fit(frame, small(train__epochs=1)), tmp_path_factory.mktemp("export") / "score.bin"
    export.write(model, "score", file)
    return file, frame[:5], model.score(frame[:5])


def example(name):
    """A script of docs/examples as a module."""
    return types.SimpleNamespace(**runpy.run_path(str(EXAMPLES / f"{name}.py")))


@pytest.mark.slow
def test_the_service_answers(scored):
    file, frame, scores = scored
    with example("service").server(file, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://localhost:{server.server_address[1]}/"

        def post(content):
            with urllib.request.urlopen(address, json.dumps(content).encode()) as answer:
                return json.loads(answer.read())

        np.testing.assert_allclose(post({"rows": frame.values.tolist()})["anomaly scores"], scores, rtol=1e-4)
        with urllib.request.urlopen(address) as answer:
            assert json.loads(answer.read())["what"] == "score"
        with pytest.raises(urllib.error.HTTPError, match="400") as error:
            post({"rows": [[1.0]]})
        assert "shape (1, 1)" in error.value.read().decode()
        error.value.close()
        server.shutdown()


@pytest.mark.slow
def test_the_jobs_score_a_batch(scored):
    """What Ray and Spark call on their workers, without them."""
    file, frame, scores = scored
    batch = {name: frame[name].to_numpy() for name in reversed(frame.columns)}
    np.testing.assert_allclose(example("ray_job").Score(str(file))(batch)["score"], scores, rtol=1e-4)
    (batch,) = example("spark_job").scores(str(file), iter([frame]))
    np.testing.assert_allclose(batch["score"], scores, rtol=1e-4)


# Commands of the documents that run, in this order, in one folder; a pattern finds each. Trainings are shortened.
RUN = [
    ("README.md", r"aejax.main --config=ae:csv:table.csv --workdir=runs/table"),
    ("README.md", r"aejax.predict .*codes.csv"),
    ("docs/guides/use.md", r"aejax.evaluate --workdir=runs/table"),
    ("README.md", r"aejax.export"),
    ("README.md", r"aejax.main --config=docs/examples/penalty.py"),
    ("docs/guides/questions.md", r"aejax.main .*runs/ae_0"),
    ("docs/guides/questions.md", r"aejax.main .*runs/ae_1"),
    ("docs/guides/questions.md", r"aejax.compare"),
]


@pytest.mark.slow
def test_commands_run_in_order(tmp_path):
    rng = np.random.default_rng(0)
    for file, rows in (("table.csv", 200), ("new.csv", 10)):
        x = rng.standard_normal((rows, 4)) @ rng.standard_normal((4, 4))
        lines = [",".join(map(str, row)) for row in [("a", "b", "c", "d"), *x.tolist()]]
        (tmp_path / file).write_text("\n".join(lines) + "\n")
    shutil.copytree(EXAMPLES, tmp_path / "docs" / "examples")
    for file, pattern in RUN:
        (text,) = [text for where, text in COMMANDS if where == file and re.search(pattern, text)]
        short = ["--config.train.epochs=2", "--config.figures.enabled=false"] if "aejax.main" in text else []
        made = subprocess.run(
            [sys.executable, *shlex.split(text)[1:], *short], cwd=tmp_path, capture_output=True, text=True
        )
        assert made.returncode == 0, f"{text}\n{made.stdout}\n{made.stderr}"
    for written in ("codes.csv", "encode.bin", "encode.bin.json", "runs/table/uses/reconstruction"):
        assert (tmp_path / written).stat().st_size, written
