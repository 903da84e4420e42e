"""A run directory of format 1, written by an earlier version: tests/fixtures/format_1."""

import json
import shutil

import numpy as np
import pytest

import aejax
from aejax.data import sources
from aejax.storage import config_json, run_dir
from common import ROOT, command, finish, small

FIXTURES = ROOT / "tests" / "fixtures"


@pytest.fixture
def old(tmp_path):
    shutil.copytree(FIXTURES / "format_1", tmp_path / "old")
    return tmp_path / "old"


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_it_loads_and_encodes(old, checkpoint):
    model = aejax.load(old, checkpoint)
    x = sources.raw(small())["x_test"][:20]
    codes = model.encode(x)
    assert model.spec.x.shape == (8, 8, 1)
    assert model.spec.classes == tuple("0123456789")
    if checkpoint == "last":
        np.testing.assert_allclose(codes, np.load(FIXTURES / "format_1_codes.npy"), rtol=1e-5)


def test_its_fields_have_their_new_names(old):
    config, spec = run_dir.read(old)
    assert "evaluate" not in config
    assert config.uses.run == ("reconstruction", "probe")
    assert config.method.name == "autoencoder"
    assert spec.train == 1293


def test_contrastive_divergence_was_a_penalty():
    stored = json.loads((FIXTURES / "format_1" / "config.json").read_text())
    stored["objective"]["contrastive_divergence"] |= {"weight": 1.0, "gibbs": 3}
    config = config_json.from_json(json.dumps(stored))
    assert config.method.name == "contrastive"
    assert config.method.contrastive.gibbs == 3


@pytest.mark.slow
def test_a_use_runs_on_it_and_changes_nothing_else(old):
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    finish(command(f"--workdir={old}", "--use=probe", module="aejax.evaluate"))
    found = json.loads((old / "uses" / "probe" / "results.json").read_text())
    expected = json.loads((old / "results.json").read_text())
    assert found["test/probe_error"] == pytest.approx(expected["test/probe_error"], abs=1e-6)
    after = {path for path in old.rglob("*") if path.is_file()}
    assert {path.relative_to(old).parts[0] for path in after - before.keys()} <= {"uses", "report.html"}
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--use=nothing"], "--use=nothing: must be all, or some of reconstruction, probe"),
        (["--use="], "--use=: must be all, or some of reconstruction, probe"),
        (["--use=restoration"], "config.pair.name=reconstruct: must be denoise"),
        (["--use=probe", "--probe.foo=1"], "--probe.foo: no such field of the uses probe"),
        (["--use=jacobian", "--jacobian.examples=0"], "--jacobian.examples=0: must be at least 1"),
    ],
)
def test_a_wrong_use_or_field_is_one_line(old, arguments, message):
    _, err = finish(command(f"--workdir={old}", *arguments, module="aejax.evaluate"), code=2)
    assert err.startswith(f"aejax: {message}")
    assert len(err.splitlines()) == 1


def test_a_missing_workdir_is_one_line(tmp_path):
    for flags, message in (
        ([f"--workdir={tmp_path / 'missing'}"], f"workdir {tmp_path / 'missing'}: is no run directory"),
        ([], "--workdir=... is needed"),
    ):
        _, err = finish(command(*flags, "--use=probe", module="aejax.evaluate"), code=2)
        assert err.startswith(f"aejax: {message}")
        assert len(err.splitlines()) == 1
