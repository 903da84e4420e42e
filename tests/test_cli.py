"""The command line, in this process: configs by name, flags, one-line errors, exit codes."""

import sys

import pytest
from absl.testing import flagsaver

import common
from aejax import __main__, cli, config, main
from aejax.errors import InputError, LostError, NonFiniteError, Stopped
from common import ROOT

# Of ml_collections, which loads the file of a config so.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

VAE = "--config=vae"


@pytest.fixture
def command(monkeypatch, capsys):
    """`python -m aejax.main ARGUMENTS` without a process: what it printed, once its exit code is as expected."""

    def start(*arguments, code=0, function=main.main):
        monkeypatch.setattr(sys, "argv", ["aejax.main", *map(str, arguments)])
        found = 0
        try:
            cli.run(function)
        except SystemExit as ended:
            found = ended.code
        out, err = capsys.readouterr()
        assert found == code, f"exit code {found}, not {code}\n{out}\n{err}"
        return out, err

    # absl's would handle signals and exit; and what these change is of the whole process.
    monkeypatch.setattr(cli.app, "run", lambda function, flags_parser: function(flags_parser(sys.argv)))
    monkeypatch.setattr(cli.gc, "set_threshold", lambda count: None)
    monkeypatch.setitem(sys.modules, "__main__", main)
    with flagsaver.flagsaver():
        yield start


def one_line(err, *names):
    assert err.count("\n") == 1, err
    assert err.startswith("aejax: ")
    for name in names:
        assert name in err, err


BAD = {
    "no config": ([], ["--config=NAME or FILE is needed"]),
    "missing file": (
        ["--config=configs/nope.py", "--config.seed=1"],
        ["--config=configs/nope.py: no such file", "aae, ae, anomaly"],
    ),
    "unknown config": (["--config=vea"], ["--config=vea: no such file", "aae, ae, anomaly"]),
    "misspelt field": (
        [VAE, "--config.model.encoder.width=3"],
        ["config.model.encoder.width: no such field; did you mean --config.model.encoder.widths?"],
    ),
    "misspelt section": (
        [VAE, "--config.trian.epochs=3"],
        ["--config.trian.epochs: no such field; did you mean --config.train.epochs?"],
    ),
    "misspelt field of true or false": (
        [VAE, "--noconfig.figures.enable"],
        ["--config.figures.enable: no such field; did you mean --config.figures.enabled?"],
    ),
    "a section": ([VAE, "--config.train"], ["--config.train: no such field"]),
    "a field without a config": (["--config.train.epochs=3"], ["--config=NAME or FILE is needed"]),
    "wrong type": ([VAE, "--config.train.epochs=many"], ["config.train.epochs = 'many': must be a whole number"]),
    "float for an integer": (
        [VAE, "--config.train.epochs=0.5"],
        ["config.train.epochs = '0.5': must be a whole number"],
    ),
    "text for a number": ([VAE, "--config.optim.clip=x"], ["config.optim.clip = 'x': must be a number"]),
    "text for a flag": (
        [VAE, "--config.optim.nesterov=perhaps"],
        ["optim.nesterov = 'perhaps': must be true or false"],
    ),
    "unknown flag": ([VAE, "--workdri=x"], ["aejax: --workdri: no such flag; did you mean --workdir?\n"]),
    "misspelt config": (["--cofig=vae"], ["aejax: --cofig: no such flag; did you mean --config?\n"]),
    "a field as a flag": ([VAE, "--epochs=3"], ["--epochs: no such flag; did you mean --config.train.epochs?"]),
    "a misspelt field as a flag": (
        [VAE, "--train.epohcs=3"],
        ["--train.epohcs", "did you mean --config.train.epochs?"],
    ),
    "no such flag": ([VAE, "--xyzzy=3"], ["--xyzzy: no such flag; must be one of --config, --workdir, "]),
    "a name that leaves runs": ([VAE, "--config.name=../b"], ["config.name = '../b'"]),
    "stage of a run without": ([VAE, "--restart_stage=1"], ["--restart_stage=1", "no stages"]),
    "stage that is none": (["--config=stacked", "--restart_stage=3"], ["--restart_stage=3", "0 to 2"]),
    "a process of none": ([VAE, "--processes=2"], ["--processes", "need --distributed"]),
    "positional": ([VAE, "x"], ["unexpected argument 'x'"]),
    "out of range": ([VAE, "--config.train.epochs=0"], ["config.train.epochs = 0"]),
    "several out of range": (
        [VAE, "--config.train.epochs=0", "--config.seed=-1"],
        ["2 problems: ", "config.train.epochs = 0", "config.seed = -1"],
    ),
    "unknown name": ([VAE, "--config.optim.name=adamm"], ["config.optim.name = 'adamm'", "adamw"]),
    "unknown source": (["--config=vae:mnist"], ["config.data.source = 'mnist'", "idx:DIR"]),
    "batch too large": ([VAE, "--config.train.batch_size=5000"], ["train.batch_size = 5000", "1437"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_command_lines(command, case, tmp_path):
    arguments, names = BAD[case]
    one_line(command(*arguments, f"--workdir={tmp_path / 'run'}", code=2)[1], *names)
    assert not (tmp_path / "run").exists()


CONFIG = "from aejax.config import default\ndef get_config(source='digits'):\n    config = default(source)\n"
FILES = {
    "a name that is none": (CONFIG + "    return confg\n", ["mine.py, line 4: NameError: name 'confg'"]),
    "a syntax error": ("def get_config(:\n", ["mine.py, line 1: SyntaxError"]),
    "a misspelt field": (
        CONFIG + "    config.train.epoch = 3\n    return config\n",
        ["config.train.epoch: no such field; did you mean config.train.epochs?"],
    ),
    "a wrong type": (CONFIG + "    config.train.epochs = '3'\n    return config\n", ["line 4", "TypeError", "int"]),
    "a field that is gone": (CONFIG + "    del config.optim.name\n    return config\n", ["config.optim.name: is mis"]),
    "no function": ("x = 1\n", ["mine.py: must define get_config(source)"]),
    "no sections": (
        "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'name': 'mine'})\n",
        ["config.", "is missing", "aejax.config.default()"],
    ),
    "no config": (CONFIG, ["must return a ConfigDict, not None"]),
    "a number": ("def get_config(source='x'):\n    return 3\n", ["must return a ConfigDict, not 3"]),
}


@pytest.mark.parametrize("case", FILES)
def test_bad_config_files(command, case, tmp_path):
    text, names = FILES[case]
    (tmp_path / "mine.py").write_text(text)
    # An override that stands before the file that has its field.
    arguments = ("--config.seed=1", f"--config={tmp_path}/mine.py", f"--workdir={tmp_path / 'run'}")
    one_line(command(*arguments, code=2)[1], *names)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "given",
    [
        ("--config=vae",),
        ("--config", "vae"),
        ("-config=vae:digits", "-config.seed=3"),
        ("--config=configs/vae.py",),
        (f"--config={config.SHIPPED / 'vae.py'}",),
    ],
)
def test_a_config_is_named_or_a_path(command, given, monkeypatch):
    monkeypatch.chdir(config.SHIPPED.parent)
    lines = command(*given, "--print_config")[0].splitlines()
    assert any(line.startswith("name = 'vae'  # ") for line in lines)
    assert any(line.startswith("data.source = 'digits'  # ") for line in lines)


def test_the_source_follows_the_name(command, tmp_path):
    out, _ = command(f"--config=ae:csv:{tmp_path}/a.csv", "--print_config")
    assert f"data.source = 'csv:{tmp_path}/a.csv'" in out


def test_overrides_of_every_kind(command):
    given = {
        "optim.clip": ("2", "2.0"),
        "train.epochs": ("3", "3"),
        "figures.enabled": ("false", "False"),
        "model.encoder.widths": ("7,", "(7,)"),
        "pair.inpaint.visible": ("top_left, top_right", "('top_left', 'top_right')"),
        "figures.box": ("0.,1.,0.,2.", "(0.0, 1.0, 0.0, 2.0)"),
    }
    out, _ = command("--config=inpainting", *(f"--config.{k}={v}" for k, (v, _) in given.items()), "--print_config")
    printed = dict(line.partition("  # ")[0].split(" = ", 1) for line in out.splitlines())
    assert {name: printed[name] for name in given} == {name: value for name, (_, value) in given.items()}


def test_the_last_of_two_equal_fields_counts(command):
    assert cli._last(["--config.seed=1", "--x=1", "--config.seed=2"]) == ["--x=1", "--config.seed=2"]
    fields = [f"--config.model.encoder.widths={width}," for width in (5, 7)]
    assert "model.encoder.widths = (7,)" in command(VAE, *fields, "--print_config")[0]


def test_help_needs_no_config_and_lists_the_flags(command):
    out, err = command("--help")
    assert not err
    assert "python -m aejax.main --config=configs/vae.py" in out
    for flag in ("config", "workdir", "restart_stage", "distributed", "print_config"):
        assert f"--{flag}: " in out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("wrong"), 2),
        (NonFiniteError("wrong"), 3),
        (LostError("wrong"), 4),
        (Stopped("wrong"), 143),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(command, error, code):
    def fails():
        raise error

    out, err = command(VAE, code=code, function=fails)
    assert not out
    assert err == ("aejax: interrupted\n" if code == 130 else "aejax: wrong\n")


def test_a_message_is_one_line(capsys):
    with pytest.raises(SystemExit) as error:
        cli._exit("two\nlines", 2)
    assert error.value.code == 2
    assert capsys.readouterr().err == "aejax: two lines\n"


@pytest.mark.slow
def test_every_command_names_the_flag_that_was_meant():
    flags = {"benchmark": "alternations", "compare": "figure", "evaluate": "input", "predict": "output"}
    started = {name: flags.get(name, "workdir") for name in __main__.COMMANDS}
    started = {(n, f): common.command(f"--{f[:-1]}=x", module=f"aejax.{n}") for n, f in started.items()}
    for (name, flag), process in started.items():
        out, err = common.finish(process, 2)
        assert (name, out, err) == (name, "", f"aejax: --{flag[:-1]}: no such flag; did you mean --{flag}?\n")


def test_the_commands_are_listed():
    package = ROOT / "aejax"
    files = [path for path in package.rglob("*.py") if "    cli.run(" in path.read_text()]
    names = {path.parent.name if path.stem == "__main__" else path.stem for path in files}
    assert names == set(__main__.COMMANDS)
    lines = __main__.text().splitlines()
    assert len(lines) == 2 + len(names)
    assert any(line.split()[2:5] == ["aejax.main", "Train", "an"] for line in lines)
