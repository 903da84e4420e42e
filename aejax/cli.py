"""Shared by all commands: the --config flag, one-line errors and exit codes."""

import gc
import os
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from aejax.errors import InputError, LostError, NonFiniteError, Stopped

# What Python says of a text that is no value of a flag's type, and what it should have been.
PATHS = ("workdir", "output", "csv", "figure", "json")  # flags that hold a path, in which ~ is the home folder
TYPES = {
    "invalid literal for int": "a whole number",
    "could not convert string to float": "a number",
    "Non-boolean argument": "true or false",
}


def define_config(required: bool = True) -> flags.FlagHolder:
    """Define --config=NAME|FILE[:SOURCE] and its --config.section.field=value overrides."""
    holder = config_flags.DEFINE_config_file(
        "config", None, "name or file of the experiment, and after a colon its data source", lock_config=True
    )
    flags.FLAGS["config"].parser = _ConfigParser("config")
    if required:
        flags.mark_flag_as_required("config")
    return holder


class _ConfigParser(ConfigFileFlagParser):
    """Loads the config and adds the stages that the command line asks for: only a field that exists is a flag."""

    def parse(self, path: str) -> ConfigDict:
        from aejax.config import add_stages  # here, so that --help need not wait for it

        config = super().parse(path)
        widths = [arg.partition("=")[2] for arg in sys.argv if arg.startswith("--config.pretrain.widths=")]
        if widths and "default" in config.get("pretrain", {}):
            add_stages(config, sum(bool(width.strip(" ()")) for width in widths[-1].split(",")))
        return config


def run(main: Callable[..., None], *, arguments: bool = False) -> None:
    """Parse the command line, call `main`, and end the process with the exit code of its error.

    `arguments`: whether there may be any besides flags; `main` is then called with them.
    """

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1 and not arguments:
            _exit(f"unexpected argument {argv[1]!r}; flags are written --name=value", 2)
        logging.set_verbosity(logging.ERROR)  # orbax warns of a checkpoint that is only read
        try:
            if "config" in flags.FLAGS:
                _part_texts(flags.FLAGS.config)
            for name in PATHS:
                if name in flags.FLAGS and isinstance(path := flags.FLAGS[name].value, str):
                    flags.FLAGS[name].value = os.path.expanduser(path)
            gc.set_threshold(100_000)  # imports and traces leave a million objects, and hardly one is garbage
            _limit_threads()
            _cache_compilations()
            main(*argv[1:])
            sys.stdout.flush()
        except (InputError, LostError, NonFiniteError, Stopped) as error:
            _exit(str(error), error.exit_code)
        except KeyboardInterrupt:
            _exit("interrupted", 130)
        except BrokenPipeError:  # whoever read the output has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)

    app.run(guarded, flags_parser=_parse)


def _limit_threads() -> None:
    """As many threads as `config.mesh.threads` says: XLA reads NPROC once, with the first use of its devices."""
    config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
    if threads := config and config.get("mesh", {}).get("threads"):
        os.environ["NPROC"] = str(threads)


def _cache_compilations() -> None:
    """Keep compiled programs in the user's cache folder, unless jax has been told of another place.

    JAX_ENABLE_COMPILATION_CACHE=false turns it off.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        import jax  # here, so that --help need not wait for it

        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "aejax" / "jax"))
        jax.config.update("jax_compilation_cache_max_size", 2**30)  # bytes; the oldest go, and processes take turns
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)  # less is not worth a file


def _load_config(given: str) -> str:
    """NAME or FILE[:SOURCE] -> FILE[:SOURCE], once it has given a config; raises InputError.

    ml_collections would say so late, or in a traceback.
    """
    from aejax.config import shipped_path  # here, so that --help need not wait for it

    name, *source = given.split(":", 1)
    try:
        file = str(shipped_path(name))
    except InputError as error:
        raise InputError(f"--config={name}: {str(error).partition(': ')[2]}") from error
    try:
        defined = runpy.run_path(file)
        if "get_config" not in defined:
            raise InputError(f"--config={file}: must define get_config(source)")
        config = defined["get_config"](*source)
    except InputError:
        raise
    except Exception as error:  # whatever the file's code raises
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        place = f"--config={file}" + (f", line {line}" if line else "")
        raise InputError(f"{place}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"--config={file}: get_config must return a ConfigDict, not {config!r}")
    return ":".join([file, *source])


def _part_texts(config: ConfigDict) -> None:
    """Texts that are written with commas, as numbers are, become as many: ml_collections makes one of them."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            _part_texts(value)
        elif isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], str) and "," in value[0]:
            config[name] = tuple(text.strip() for text in value[0].split(",") if text.strip())


def _parse(argv: Sequence[str]) -> list[str]:
    if {"--help", "-h", "-help", "--helpfull", "--helpshort"} & set(argv):
        print(sys.modules["__main__"].__doc__)
        own = flags.FLAGS.get_key_flags_for_module(sys.modules["__main__"])
        for flag in [*([flags.FLAGS["config"]] if "config" in flags.FLAGS else []), *own]:
            default = "" if flag.default in (None, "", []) else f"; default: {flag.default}"
            print(f"  --{flag.name}: {flag.help}{default}")
        sys.exit(0)
    try:
        # First: its fields are flags only once it is read.
        configs = [arg for arg in argv if arg.startswith("--config=")] if "config" in flags.FLAGS else []
        loaded = [f"--config={_load_config(arg.removeprefix('--config='))}" for arg in configs]
        # ml_collections looks there, too.
        sys.argv = [*argv[:1], *loaded, *_last([arg for arg in argv[1:] if arg not in configs])]
        return flags.FLAGS(sys.argv)
    except InputError as error:
        _exit(str(error), error.exit_code)
        raise
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, SyntaxError) as error:
        # ml_collections raises these for a missing config file, a misspelt field, a wrong type.
        _exit(_one_line(error, argv), 2)
        raise


def _last(argv: Sequence[str]) -> list[str]:
    """Of a field that is given twice the last, as of other flags; ml_collections would make one of two tuples."""
    names = [arg.partition("=")[0] if arg.startswith("--config.") else "" for arg in argv]
    return [arg for i, arg in enumerate(argv) if not names[i] or names[i] not in names[i + 1 :]]


def _one_line(error: Exception, argv: Sequence[str]) -> str:
    text = " ".join(str(error.args[0] if error.args else error).replace("\\n", " ").replace("\\'", "'").split())
    if isinstance(error, AttributeError | KeyError):  # a field that the config lacks
        wrong = next((w for w in re.findall(r"\w+", text)), "")
        named = next((a for a in argv if wrong in a.split("=")[0].split(".")), f"--config.{wrong}")
        hint = re.search(r'Did you mean "(\w+)"', text)
        return f"{named.removeprefix('--').split('=')[0]}: no such field" + (
            f"; did you mean {hint[1]}?" if hint else ""
        )
    if missing := re.fullmatch(r"flag --(\w+)=None: Flag --\w+ must have a value other than None\.", text):
        example = "NAME or FILE is needed, such as --config=vae" if missing[1] == "config" else "... is needed"
        return f"--{missing[1]}={example}; --help shows more"
    if isinstance(error, flags.UnrecognizedFlagError):
        return f"{text}; a field of the config is written --config.section.field=value"
    flag = re.match("flag --(.*?)=(.*?): ", text)
    for words, kind in TYPES.items():
        if flag and words in text:
            return f"{flag[1]} = {flag[2]!r}: must be {kind}"
    return text


def _exit(message: str, code: int) -> None:
    print(f"aejax: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.exit(code)
