"""The members of a population: the config of each, and the groups that one program trains."""

import ast
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax.errors import FieldError, InputError, did_you_mean
from aejax.training import plan

FIXED = ("data.source", "data.resident", "population", "mesh", "checkpoint", "figures", "uses", "name", "init_from",
         "init_from_parts", "pretrain", "finetune", "few_labels", "evaluate", "train.progress",
         "train.profile_steps")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Member:
    """A run of a population: its number, and what its config has of its own."""

    number: int
    seed: int
    values: dict[str, Any]  # of the swept fields
    config: ConfigDict  # resolved, without the population

    def __str__(self) -> str:
        own = "".join(f", {field} = {value!r}" for field, value in self.values.items())
        return f"member {self.number} (seed {self.seed}{own})"


def several(config: ConfigDict) -> bool:
    """Whether a config describes a population."""
    return bool(config.population.seeds or config.population.sweep or config.population.classes)


def members(config: ConfigDict, classes: Sequence[str] = ()) -> list[Member]:
    """The members of a checked config: every setting with every seed, seeds fastest; `classes` of the data.

    Raises InputError.
    """
    own = config.population
    seeds = tuple(own.seeds) or (config.seed,)
    if len(own.seeds) == 1:
        seeds = tuple(range(config.seed, config.seed + own.seeds[0]))
    sweeps = dict(_sweep(config, text) for text in own.sweep)
    if own.classes:
        if len(classes) < 2:
            raise FieldError("population.classes", True, "needs labels of at least 2 classes")
        sweeps["data.train_labels"] = [(name,) for name in classes]
    if len(sweeps) < len(own.sweep):
        raise FieldError("population.sweep", tuple(own.sweep), "must name each field once")
    lengths = {field: len(values) for field, values in sweeps.items()}
    if own.zip and len(set(lengths.values())) > 1:
        listed = ", ".join(f"{n} of {field}" for field, n in lengths.items())
        raise FieldError("population.zip", True, f"needs sweeps of one length, found {listed}")
    combined = zip(*sweeps.values(), strict=True) if own.zip and sweeps else itertools.product(*sweeps.values())
    base = ConfigDict(config)
    with base.unlocked():
        base.population = config_lib.default().population
    found: list[Member] = []
    for setting in combined:
        values = dict(zip(sweeps, setting, strict=True))
        for seed in seeds:
            changes = {field.replace(".", "__"): value for field, value in values.items()}
            own_config = config_lib.changed(base, changes | {"seed": seed})
            number = len(found)
            try:
                found.append(Member(number, seed, values, plan.resolve(own_config)))
            except InputError as error:
                raise InputError(f"population: member {number}: {error}") from error
    if len(found) < 2:
        raise FieldError("population.seeds", tuple(own.seeds), "must give at least 2 members; leave it () for one run")
    if len({(member.seed, repr(member.values)) for member in found}) < len(found):
        raise FieldError("population.seeds", tuple(own.seeds), "must differ from one another")
    return found


def _sweep(config: ConfigDict, text: str) -> tuple[str, list[Any]]:
    """The field and the values of a sweep such as objective.kl.weight=0.5,1,2; raises InputError."""
    field, _, values = text.partition("=")
    field = field.removeprefix("config.")
    declared, known = config_lib.about(field), config_lib.flatten(config.to_dict())
    if field not in known or declared is None:
        raise InputError(f"--sweep={text}: config.{field}: no such field{did_you_mean(field, list(known), 'config.')}")
    if field == "seed":
        raise InputError(f"--sweep={text}: the seeds are --config.population.seeds={values or 'N'}")
    if any(field == fixed or field.startswith(f"{fixed}.") for fixed in FIXED):
        raise InputError(
            f"--sweep={text}: config.{field} cannot vary within a population, whose members share source, uses and "
            f"pages; fields of data, model, objective, pair, method, optim and train can. Start a run for each value"
        )
    try:
        if isinstance(known[field], list):
            parsed = [tuple(v) if isinstance(v, list | tuple) else (v,) for v in ast.literal_eval(f"[{values}]")]
        else:
            parsed = [declared.parse(f"--sweep={field}", value.strip()) for value in values.split(",")]
    except (ValueError, SyntaxError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"--sweep={text}: must be FIELD=VALUE,VALUE,..., tuples in parentheses") from error
    if len(set(parsed)) < max(len(parsed), 2):
        raise InputError(
            f"--sweep={text}: needs at least two values that differ; one value is --config.{field}={values}"
        )
    for value in parsed:
        for wrong in declared.check(field, value):
            raise wrong
    return field, parsed


def groups(programs: Sequence[str], most: int) -> list[list[int]]:
    """The numbers of members of one program together, at most `most` in a group, in equal parts."""
    found: list[list[int]] = []
    for name in dict.fromkeys(programs):
        same = [number for number, own in enumerate(programs) if own == name]
        size = -(-len(same) // -(-len(same) // most))
        found += [same[i : i + size] for i in range(0, len(same), size)]
    return found


def check(config: ConfigDict) -> Iterator[FieldError]:
    """Errors of a population with the rest of the config."""
    if config.pretrain.widths:
        allowed = "must be () in a population: train the stages in a run of their own, and start with config.init_from"
        yield FieldError("pretrain.widths", tuple(config.pretrain.widths), allowed)
    if config.data.labeled_examples:
        allowed = "must be () in a population: it has draws of its own"
        yield FieldError("data.labeled_examples", tuple(config.data.labeled_examples), allowed)
    if config.finetune.patience:
        yield FieldError("finetune.patience", config.finetune.patience, "must be 0 in a population; use member='best'")
    if config.data.binarize == "static":
        allowed = "must be none or dynamic in a population: each seed draws its own images"
        yield FieldError("data.binarize", "static", allowed)
