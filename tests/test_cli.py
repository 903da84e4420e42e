"""The command line, in this process: configs by name, one-line errors."""

import pytest

from aejax import cli, config
from aejax.errors import InputError
from aejax.training import plan


@pytest.mark.parametrize("given", ["vae", "vae:digits", "configs/vae.py", str(config.SHIPPED / "vae.py")])
def test_a_config_is_named_or_a_path(given):
    loaded = cli._load_config(given)
    assert loaded.partition(":")[0].endswith("vae.py")
    assert loaded.endswith(":digits") == given.endswith(":digits")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("def get_config(source='x'):\n    return 3\n", ["must return a ConfigDict, not 3"]),
        ("x = 1\n", ["must define get_config(source)"]),
        ("def get_config(:\n", ["line 1", "SyntaxError"]),
        ("def get_config(source='x'):\n    return nothing\n", ["line 2", "NameError"]),
    ],
)
def test_a_file_that_gives_no_config_is_one_line(tmp_path, content, parts):
    path = tmp_path / "own.py"
    path.write_text(content)
    with pytest.raises(InputError) as error:
        cli._load_config(str(path))
    assert "\n" not in str(error.value)
    for part in [f"--config={path}", *parts]:
        assert part in str(error.value)


def test_an_unknown_name_lists_the_shipped_configs():
    with pytest.raises(InputError, match="aae, ae, code_l2") as error:
        cli._load_config("vea")
    assert str(error.value).startswith("--config=vea: no such file")


@pytest.mark.parametrize(
    ("error", "argument", "message"),
    [
        (AttributeError('Did you mean "epochs"? epoch'), "--config.train.epoch=3", "no such field"),
        (
            ValueError("flag --config.seed=x: invalid literal for int() with base 10"),
            "--config.seed=x",
            "a whole number",
        ),
        (
            ValueError("flag --config.optim.clip=x: could not convert string to float"),
            "--config.optim.clip=x",
            "a number",
        ),
    ],
)
def test_errors_of_flags_are_one_line(error, argument, message):
    text = cli._one_line(error, ["main", argument])
    assert message in text
    assert "\n" not in text


def test_the_last_of_two_equal_fields_counts():
    assert cli._last(["--config.seed=1", "--x=1", "--config.seed=2"]) == ["--x=1", "--config.seed=2"]


def test_a_message_is_one_line_and_gives_its_exit_code(capsys):
    with pytest.raises(SystemExit) as error:
        cli._exit("two\nlines", 2)
    assert error.value.code == 2
    assert capsys.readouterr().err == "aejax: two lines\n"


def test_old_names_of_fields_work_and_say_so(capsys):
    old = config.default()
    old.evaluate.probe = old.evaluate.units = True
    resolved = plan.resolve(old)
    assert resolved.uses.run == ("reconstruction", "probe")
    assert resolved.train.log_units
    assert "evaluate" not in resolved
    out = capsys.readouterr().out
    assert "config.evaluate.probe has a new name: config.uses.run" in out
    assert "config.evaluate.units has a new name: config.train.log_units" in out


def test_uses_are_no_part_of_a_run_s_identity():
    a, b = (plan.resolve(config.default()) for _ in range(2))
    with b.unlocked():
        b.uses.run = ("probe",)
        b.uses.jacobian.examples = 3
    assert config.identity(a) == config.identity(b)
    assert config.digest(a) == config.digest(b)
    with b.unlocked():
        b.seed = 1
    assert config.digest(a) != config.digest(b)
