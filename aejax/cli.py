"""Shared by all commands: the --config flag, one-line errors and exit codes."""

import gc
import os
import re
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from aejax.errors import InputError, LostError, NonFiniteError, Stopped, did_you_mean

flags.disclaim_key_flags()  # --help lists the flags that are defined here as those of the command
PATHS = ("workdir", "output", "csv", "figure", "json", "maps")  # flags that hold a path, in which ~ is the home folder
NEEDED = "--config=NAME or FILE is needed, such as --config=vae; --help shows more"
# Python's message for a value that does not have the type of a flag -> the type that is expected.
TYPES = {
    "invalid literal for int": "a whole number",
    "could not convert string to float": "a number",
    "Non-boolean argument": "true or false",
}


def define_config(required: bool = True) -> flags.FlagHolder:
    """Define --config=NAME|FILE[:SOURCE] and its --config.section.field=value overrides."""
    holder = config_flags.DEFINE_config_file(
        "config", None, "name or file of the config, then optionally a colon and the data source", lock_config=True
    )
    flags.FLAGS["config"].parser = _ConfigParser("config")
    if required:
        flags.mark_flag_as_required("config")
    return holder


def define_distributed(about: str) -> None:
    """Define --distributed, --coordinator, --processes and --process_id."""
    flags.DEFINE_bool("distributed", False, about)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, unless a cluster provides it")
    flags.DEFINE_integer("processes", None, "number of processes, unless a cluster provides it", lower_bound=1)
    flags.DEFINE_integer(
        "process_id", None, "number of this process, from 0 on, unless a cluster provides it", lower_bound=0
    )


def join() -> None:
    """Join the other processes if --distributed is set; raises InputError."""
    from aejax.parallel import processes  # here, so that --help need not wait for it

    given = flags.FLAGS
    joining = (given.coordinator, given.processes, given.process_id)
    if given.distributed:
        processes.initialize(*joining)
    elif any(value is not None for value in joining):
        raise InputError("--coordinator, --processes and --process_id need --distributed")


class _ConfigParser(ConfigFileFlagParser):
    """Loads the config with the stages of the command line, since only existing fields are flags."""

    def parse(self, path: str) -> ConfigDict:
        return _with_stages(super().parse(path))


def _with_stages(config: ConfigDict) -> ConfigDict:
    """The config with a section for each stage of --config.pretrain.widths."""
    from aejax.config import add_stages  # here, so that --help need not wait for it

    widths = [arg.partition("=")[2] for arg in sys.argv if arg.startswith("--config.pretrain.widths=")]
    if widths and "default" in config.pretrain:
        add_stages(config, sum(bool(width.strip(" ()")) for width in widths[-1].split(",")))
    return config


def run(main: Callable[..., None], *, arguments: bool = False) -> None:
    """Parse the command line, call `main`, and end the process with the exit code of its error.

    `arguments`: whether arguments besides flags are allowed; `main` is called with them.
    """

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1 and not arguments:
            _exit(f"unexpected argument {argv[1]!r}; flags are written --name=value", 2)
        logging.set_verbosity(logging.ERROR)  # orbax warns about checkpoints that are only read
        try:
            if "config" in flags.FLAGS:
                _part_texts(flags.FLAGS.config)
            for name in PATHS:
                if name in flags.FLAGS and isinstance(path := flags.FLAGS[name].value, str):
                    flags.FLAGS[name].value = os.path.expanduser(path)
            gc.set_threshold(100_000)  # imports and traces leave a million objects, and hardly one is garbage
            _limit_threads()
            cache_compilations()
            _end_at_interrupt(False)
            main(*argv[1:])
            sys.stdout.flush()
        except (InputError, LostError, NonFiniteError, Stopped) as error:
            _exit(str(error), error.exit_code)
        except KeyboardInterrupt:
            _exit("interrupted", 130)
        except ImportError as error:  # what an extension makes of an interrupt while it is imported
            if isinstance(error.__context__, KeyboardInterrupt):
                _exit("interrupted", 130)
            raise
        except BrokenPipeError:  # the reader of the output has closed it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)

    _end_at_interrupt(True)
    app.run(guarded, flags_parser=_parse)


def _end_at_interrupt(at_once: bool) -> None:
    """End the process at Ctrl-C without cleaning up, as long as it only imports and parses; or raise as usual."""

    def end(*_: Any) -> None:
        os.write(2, b"aejax: interrupted\n")
        os._exit(130)

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, end if at_once else signal.default_int_handler)


def _limit_threads() -> None:
    """Set NPROC to `config.mesh.threads`: XLA reads it once, at the first use of its devices."""
    config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
    if config and config.mesh.threads:
        os.environ["NPROC"] = str(config.mesh.threads)


def cache_compilations() -> None:
    """Keep compiled programs in the user's cache folder, or in JAX_COMPILATION_CACHE_DIR if it is set.

    JAX_ENABLE_COMPILATION_CACHE=false turns it off.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        import jax  # here, so that --help need not wait for it

        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "aejax" / "jax"))
        jax.config.update("jax_compilation_cache_max_size", 2**30)  # bytes; the oldest go, and processes take turns
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)  # less is not worth a file


def _load_config(given: str) -> tuple[str, list[str]]:
    """NAME or FILE[:SOURCE] -> FILE[:SOURCE] and the names of its fields; raises InputError.

    ml_collections would report an error of the file late, or in a traceback.
    """
    from aejax.config import check_fields, flatten, shipped_path  # here, so that --help need not wait for it

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
    check_fields(config)
    return ":".join([file, *source]), list(flatten(_with_stages(config).to_dict()))


def _part_texts(config: ConfigDict) -> None:
    """Split strings at commas into tuples, as for numbers: ml_collections keeps them as one string."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            _part_texts(value)
        elif isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], str) and "," in value[0]:
            config[name] = tuple(text.strip() for text in value[0].split(",") if text.strip())


def _parse(argv: Sequence[str]) -> list[str]:
    if {"--help", "-h", "-help", "--helpfull", "--helpshort"} & set(argv):
        print(sys.modules["__main__"].__doc__)
        for flag in _flags():
            default = "" if flag.default in (None, "", []) else f"; default: {flag.default}"
            print(f"  --{flag.name}: {flag.help}{default}")
        sys.exit(0)
    fields: list[str] = []
    try:
        if "config" in flags.FLAGS:
            argv, fields = _read_config(argv)
        sys.argv = list(argv)  # ml_collections looks there, too
        return flags.FLAGS(sys.argv)
    except InputError as error:
        _exit(str(error), error.exit_code)
        raise
    except flags.UnrecognizedFlagError as error:
        _exit(_unknown(error.flagname, fields), 2)
        raise
    except (flags.Error, TypeError, ValueError) as error:  # of ml_collections for a wrong type
        _exit(_one_line(error), 2)
        raise


def _flags() -> list[flags.Flag]:
    """The flags of the command."""
    found: list[flags.Flag] = flags.FLAGS.get_key_flags_for_module(sys.modules["__main__"])
    return found


def _read_config(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments with the config's file first, and the names of its fields; raises InputError.

    The fields are flags only once the file is read.
    """
    loaded: list[str] = []
    rest: list[str] = []
    fields: list[str] = []
    arguments = iter(re.sub(r"^-(?=config\b)", "--", arg) for arg in argv[1:])
    for arg in arguments:
        if arg == "--config" or arg.startswith("--config="):
            given = next(arguments, "") if arg == "--config" else arg.removeprefix("--config=")
            file, fields = _load_config(given)
            loaded.append(f"--config={file}")
        else:
            rest.append(arg)
    for arg in rest:
        field = re.match(r"--(?:no)?config\.([^=]*)", arg)
        if field and not loaded:
            raise InputError(NEEDED)
        if field and field[1] not in fields:
            raise InputError(f"--config.{field[1]}: no such field{did_you_mean(field[1], fields, '--config.')}")
    return [*argv[:1], *loaded, *_last(rest)], fields


def _unknown(name: str, fields: Sequence[str]) -> str:
    """The line for an unknown flag: the most similar flag or field, or all flags."""
    known = [*(flag.name for flag in _flags()), "help"]
    ends = [f"config.{field}" for field in fields if f".{field}".endswith(f".{name}")]  # --config.seed for --seed
    nearest = min(ends, key=len) if ends else name
    hint = did_you_mean(nearest, [*known, *ends], "--") or did_you_mean(name, fields, "--config.")
    return f"--{name}: no such flag" + (hint or f"; must be one of --{', --'.join(known)}")


def _last(argv: Sequence[str]) -> list[str]:
    """Keep the last value of a field that is given twice, as for other flags; ml_collections would join two tuples."""
    names = [arg.partition("=")[0] if arg.startswith("--config.") else "" for arg in argv]
    return [arg for i, arg in enumerate(argv) if not names[i] or names[i] not in names[i + 1 :]]


def _one_line(error: Exception) -> str:
    text = " ".join(str(error.args[0] if error.args else error).replace("\\n", " ").replace("\\'", "'").split())
    if missing := re.fullmatch(r"flag --(\w+)=None: Flag --\w+ must have a value other than None\.", text):
        return NEEDED if missing[1] == "config" else f"--{missing[1]}=... is needed; --help shows more"
    flag = re.match("flag --(.*?)=(.*?): ", text)
    for words, kind in TYPES.items():
        if flag and words in text:
            return f"{flag[1]} = {flag[2]!r}: must be {kind}"
    return text


def _exit(message: str, code: int) -> None:
    print(f"aejax: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.exit(code)
