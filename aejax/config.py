"""The config: every field of every part in one tree, its checks, and its identity.

The parts declare their fields (`aejax/fields.py`); this file says which part fills which section.
"""

import copy
import dataclasses
import hashlib
import json
import runpy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from aejax import fields, losses, methods, models, pairs, sections, shown, uses
from aejax.data import sources
from aejax.errors import FieldError, InputError, did_you_mean, raise_all
from aejax.fields import Declared
from aejax.losses import likelihoods, weight
from aejax.methods import objective, optim
from aejax.models import layers

# One file for each variant: in a checkout beside the package, in a wheel inside it.
SHIPPED = next(
    folder for folder in (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs") if folder.is_dir()
)
FLOAT32_MAX = 3.4028234663852886e38

# Earlier names of fields, which still work: name -> (field, its value if the name is True).
RENAMED = {
    "evaluate.probe": ("uses.run", "probe"),
    "evaluate.retrieval": ("uses.run", "retrieval"),
    "evaluate.jacobian": ("uses.run", "jacobian"),
    "evaluate.units": ("train.log_units", True),
}


def declared() -> dict[str, Declared]:
    """Every field of a config without stages: dotted path -> its declaration."""
    tree: dict[str, Declared] = {}

    def add(prefix: str, *parts: Any, **defaults: Any) -> None:
        for name, field in fields.declared(*parts).items():
            own = dataclasses.replace(field, default=defaults[name]) if name in defaults else field
            tree[f"{prefix}.{name}".removeprefix(".")] = own

    add("", sections.Top)
    add("data", *sources.section())
    add("pair", pairs.Fields)
    for name, pair in pairs.PAIRS.items():
        add(f"pair.{name}", pair)
    add("model", models.Fields)
    for name, family in models.FAMILIES.items():
        add(f"model.{name}", family.encoder, family.decoder)
    add("model.encoder", layers.Fields)
    add("model.bottleneck", models.BottleneckFields)
    for name, bottleneck in models.BOTTLENECKS.items():
        add(f"model.bottleneck.{name}", bottleneck)
    add("model.decoder", layers.Fields)
    add("model.decoder", models.DecoderFields)
    add("objective", likelihoods.Fields)
    add("objective.reconstruction", weight.schedule, weight=1.0)
    for name, penalty in losses.PENALTIES.items():
        add(f"objective.{name}", weight.schedule, penalty.term, weight=penalty.weight)
    add("method", methods.Fields)
    for name, method in methods.METHODS.items():
        add(f"method.{name}", method)
    add("optim", optim.Fields, *optim.OPTIMIZERS.values())
    add("pretrain", sections.Pretrain)
    add("finetune", sections.Finetune)
    add("few_labels", sections.FewLabels)
    add("train", sections.Train)
    add("population", sections.Population)
    add("checkpoint", sections.Checkpoint)
    add("figures", sections.Figures)
    add("mesh", sections.Mesh)
    add("uses", uses.Fields)
    for name, use in uses.USES.items():
        add(f"uses.{name}", use.measure)
    return tree


# Sections that exist even if their part has no fields.
def _sections() -> Iterator[str]:
    yield from (f"pair.{name}" for name in pairs.PAIRS)
    yield from (f"model.{name}" for name in models.FAMILIES)
    yield from (f"model.bottleneck.{name}" for name in models.BOTTLENECKS)
    yield from (f"method.{name}" for name in methods.METHODS)
    yield from (f"uses.{name}" for name in uses.USES)


class Config(ConfigDict):
    """A config that shows the fields which differ from the default."""

    def __repr__(self) -> str:
        return shown.text("config, where it differs from the default", self._changed())

    def _repr_html_(self) -> str:
        return shown.table("config, where it differs from the default", self._changed())

    def _changed(self) -> dict[str, Any]:
        usual = flatten(default_like(self.to_dict()).to_dict())
        return {path: value for path, value in flatten(self.to_dict()).items() if value != usual.get(path)}


def default(source: str = "digits") -> ConfigDict:
    """The default config, with every field. A file in configs/ changes some of them and returns it."""
    config = Config()
    for path in _sections():
        _section(config, path)
    for path, field in declared().items():
        parent, _, name = path.rpartition(".")
        optional = field.default is None
        _section(config, parent)[name] = config_dict.placeholder(tuple) if optional else field.default
    config.data.source = source
    for name in fields.declared(layers.Fields):  # the encoder's, unless set
        if name != "widths":
            config.model.decoder[name] = config.model.encoder.get_oneway_ref(name)
    config.evaluate = ConfigDict({path.partition(".")[2]: False for path in RENAMED})
    return config


def _section(config: ConfigDict, path: str) -> ConfigDict:
    for name in path.split(".") if path else ():
        if name not in config:
            config[name] = ConfigDict()
        config = config[name]
    return config


def stages(config: ConfigDict, count: int) -> None:
    """Add the sections `pretrain.default` and `pretrain.stage_0`, ..., which hold the fields of a stage.

    Every field of a stage follows `pretrain.default` until it is set itself. If `pretrain.widths` becomes longer than
    `count`, sections for the further stages are added.
    """
    pretrain = config.pretrain
    pretrain.default = own = ConfigDict()
    for section in STAGED:
        own[section] = ConfigDict(config[section].to_dict())
    for name, field in fields.declared(sections.Stage).items():
        own[name] = field.default
    add_stages(config, count)


def add_stages(config: ConfigDict, count: int) -> None:
    """Add the sections of stages that are missing up to `count`, which follow `pretrain.default`."""
    with config.unlocked():
        for k in range(stage_sections(config.pretrain), count):
            config.pretrain[f"stage_{k}"] = _following(config.pretrain.default)


STAGED = ("pair", "method", "objective", "optim")  # sections of which a stage has its own


def stage_sections(pretrain: Mapping[str, Any]) -> int:
    """The number of stages that have a section in `pretrain`."""
    return sum(name.startswith("stage_") for name in pretrain)


def _following(section: ConfigDict) -> ConfigDict:
    """A section of the same fields, each of which follows the one of `section`."""
    copy = ConfigDict()
    for name, value in section.items():
        copy[name] = _following(value) if isinstance(value, ConfigDict) else section.get_oneway_ref(name)
    return copy


def about(path: str) -> Declared | None:
    """The declaration of a field, also of a stage; None if there is no such field."""
    return _declared_with_stages(path, declared())


def _declared_with_stages(path: str, known: Mapping[str, Declared]) -> Declared | None:
    if path in known:
        return known[path]
    parts = path.split(".", 2)
    if len(parts) == 3 and parts[0] == "pretrain" and (parts[1] == "default" or parts[1].startswith("stage_")):
        return known.get(parts[2]) or fields.declared(sections.Stage).get(parts[2])
    return None


def describe(config: ConfigDict) -> str:
    """A line for each field: path, value, meaning and range."""
    known, lines = declared(), []
    for path, value in flatten(config.to_dict()).items():
        field = _declared_with_stages(path, known)
        value = tuple(value) if isinstance(value, list) else value
        ranges = f"; must {field.allowed}" if field and field.allowed else ""
        lines.append(f"{path} = {value!r}" + (f"  # {field.about}{ranges}" if field else ""))
    return "\n".join(lines)


def check(config: ConfigDict) -> None:
    """Check every field alone, then the parts together; raises InputError with all problems in one line."""
    check_fields(config)
    raise_all(_alone(config))
    raise_all(error for part in (models, objective, methods, optim, pairs) for error in part.check(config))


def _alone(config: ConfigDict) -> Iterator[FieldError]:
    known = declared()
    for path, value in flatten(config.to_dict()).items():
        value = tuple(value) if isinstance(value, list) else value
        if isinstance(value, float) and not abs(value) <= FLOAT32_MAX:  # so that NaN is caught too
            yield FieldError(path, value, "must be finite in float32")
        elif field := _declared_with_stages(path, known):
            yield from field.check(path, value)


# Fields that may differ between the start of a run and its resumption: they do not change what is trained.
RESUMABLE = ("data.resident", "mesh", "checkpoint", "figures", "train.profile_steps", "train.progress", "uses")


def get(config: ConfigDict, path: str) -> Any:
    """The value at a dotted path."""
    for part in path.split("."):
        config = config[part]
    return config


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict -> {dotted path: value}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def shipped_path(name: str | Path) -> Path:
    """The file of a config: a path that ends in .py, or the name of one of the shipped files; raises InputError."""
    path = Path(name).expanduser()
    if path.suffix != ".py":
        path = SHIPPED / f"{name}.py"
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() and path.parent != SHIPPED else SHIPPED
        known = ", ".join(sorted(file.stem for file in folder.glob("*.py")))
        raise InputError(f"config {str(name)!r}: no such file; give the path of one, or one of {known}")
    return path


def shipped(name: str | Path, *source: str) -> ConfigDict:
    """The config of a shipped file, or of the file at a path; raises InputError."""
    config: ConfigDict = runpy.run_path(str(shipped_path(name)))["get_config"](*source)
    return config


def identity(config: ConfigDict) -> dict[str, Any]:
    """{dotted path: value} of the fields that determine a run's numbers."""
    within = tuple(f"{field}." for field in RESUMABLE)
    return {
        path: value
        for path, value in flatten(config.to_dict()).items()
        if path not in RESUMABLE and not path.startswith(within)
    }


def difference(config: ConfigDict, other: ConfigDict) -> dict[str, Any]:
    """{dotted path: value in `config`} where their identities differ."""
    theirs = identity(other)
    return {path: value for path, value in identity(config).items() if theirs.get(path) != value}


def digest(config: ConfigDict) -> str:
    """8 hexadecimal digits that identify the fields that determine a run's numbers.

    Only fields that differ from their default count, so a field that a later version adds changes no digest.
    """
    usual = identity(default_like(config.to_dict()))
    own = {path: value for path, value in identity(config).items() if value != usual.get(path)}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:8]


def move_renamed(config: ConfigDict) -> ConfigDict:
    """A copy with fields of earlier names moved to their present names; no field follows another one any more."""
    config = config.copy_and_resolve_references().unlock()
    old = config.evaluate.to_dict() if "evaluate" in config else {}
    for name, on in old.items():
        field, value = RENAMED[f"evaluate.{name}"]
        if on and field == "uses.run" and value not in config.uses.run:
            config.uses.run = (*config.uses.run, value)
        elif on and field != "uses.run":
            set_field(config, field, value)
    if "evaluate" in config:
        del config.evaluate
    return config


def check_fields(config: ConfigDict) -> None:
    """Raise InputError if a config lacks a field or has an unknown one."""
    found = config.to_dict()
    given, known = flatten(found), flatten(default_like(found).to_dict())
    for path in given:
        if path not in known:
            raise InputError(f"config.{path}: no such field{did_you_mean(path, list(known), 'config.')}")
    for path in known:
        if path not in given:
            raise InputError(f"config.{path}: is missing; a config begins with aejax.config.default()")


def default_like(tree: Mapping[str, Any]) -> ConfigDict:
    """The default, with a section for each stage that a nested dict has."""
    config, pretrain = default(), tree.get("pretrain", {})
    if "evaluate" not in tree:
        del config.evaluate
    if "default" in pretrain:
        stages(config, stage_sections(pretrain))
    return config


def changed(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """A copy with these values, by path with a double underscore for each dot; raises InputError."""
    config = copy.deepcopy(config)  # ConfigDict(config) would share the sections
    known = [path.replace(".", "__") for path in flatten(config.to_dict())]
    with config.unlocked():
        for name, value in values.items():
            if name not in known:
                raise InputError(f"{name}: no such field of the config{did_you_mean(name, known)}")
            path = name.replace("__", ".")
            try:
                set_field(config, path, value)
            except (TypeError, ValueError) as error:
                raise FieldError(path, value, " ".join(str(error).split())) from error
    return config


def set_field(config: ConfigDict, path: str, value: Any) -> None:
    """Assign at a dotted path; a list becomes a tuple."""
    *parents, field = path.split(".")
    for parent in parents:
        config = config[parent]
    config[field] = tuple(value) if isinstance(value, list) else value
