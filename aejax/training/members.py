"""The members of a population: the config of each, and the groups that one program trains."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax.errors import FieldError, InputError
from aejax.methods import METHODS
from aejax.training import plan, search, sweeps


@dataclasses.dataclass(frozen=True)
class Member:
    """A run of a population: its number, and what its config has of its own."""

    number: int
    setting: int  # the number of its values
    seed: int
    values: dict[str, Any]  # of the fields that vary
    config: ConfigDict  # resolved, without the population

    def __str__(self) -> str:
        own = "".join(f", {field} = {value!r}" for field, value in self.values.items())
        return f"member {self.number} (seed {self.seed}{own})"


def several(config: ConfigDict) -> bool:
    """Whether a config describes a population."""
    own = config.population
    return bool(own.seeds or own.sweep or own.classes or own.search or own.ranges)


def members(config: ConfigDict, classes: Sequence[str] = ()) -> list[Member]:
    """The members of a checked config: every setting with every seed, seeds fastest; `classes` of the data.

    Raises InputError.
    """
    own = config.population
    seeds = tuple(own.seeds) or (config.seed,)
    if len(own.seeds) == 1:
        seeds = tuple(range(config.seed, config.seed + own.seeds[0]))
    base = ConfigDict(config)
    with base.unlocked():
        base.population = config_lib.default().population
    found: list[Member] = []
    for setting, values in enumerate(search.draw(config) if own.search else _swept(config, classes)):
        for seed in seeds:
            changes = {field.replace(".", "__"): value for field, value in values.items()}
            own_config = config_lib.changed(base, changes | {"seed": seed})
            number = len(found)
            try:
                found.append(Member(number, setting, seed, values, plan.resolve(own_config)))
            except InputError as error:
                raise InputError(f"population: member {number}: {error}") from error
    if len(found) < 2:
        raise FieldError("population.seeds", tuple(own.seeds), "must give at least 2 members; leave it () for one run")
    if len({(member.seed, repr(member.values)) for member in found}) < len(found):
        raise FieldError("population.seeds", tuple(own.seeds), "must differ from one another")
    return found


def _swept(config: ConfigDict, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The settings of the sweeps and classes of a config: the values of each; raises InputError."""
    own = config.population
    found = dict(sweeps.choice(config, "sweep", text) for text in own.sweep)
    if own.classes:
        if len(classes) < 2:
            raise FieldError("population.classes", True, "needs labels of at least 2 classes")
        found["data.train_labels"] = [(name,) for name in classes]
    if len(found) < len(own.sweep):
        raise FieldError("population.sweep", tuple(own.sweep), "must name each field once")
    lengths = {field: len(values) for field, values in found.items()}
    if own.zip and len(set(lengths.values())) > 1:
        listed = ", ".join(f"{n} of {field}" for field, n in lengths.items())
        raise FieldError("population.zip", True, f"needs sweeps of one length, found {listed}")
    combined = zip(*found.values(), strict=True) if own.zip and found else itertools.product(*found.values())
    return [dict(zip(found, values, strict=True)) for values in combined]


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
    own = config.population
    if own.search and not own.ranges:
        yield FieldError("population.search", own.search, f"needs ranges to draw from: {search.EXAMPLE}")
    if own.ranges and not own.search:
        allowed = "needs population.search, the number of settings to draw: --search=20"
        yield FieldError("population.ranges", tuple(own.ranges), allowed)
    for field in ("sweep", "zip", "classes") if own.search else ():
        if value := own[field]:
            allowed = "cannot be combined with population.search; --range=FIELD=VALUE,VALUE draws among values"
            yield FieldError(f"population.{field}", value, allowed)
    if config.pretrain.widths:
        allowed = "must be () in a population: train the stages in a run of their own, and start with config.init_from"
        yield FieldError("pretrain.widths", tuple(config.pretrain.widths), allowed)
    if config.data.labeled_examples:
        allowed = "must be () in a population: it has draws of its own"
        yield FieldError("data.labeled_examples", tuple(config.data.labeled_examples), allowed)
    if METHODS[config.method.name].refreshes:
        allowed = "cannot be trained in a population: train each seed in a run of its own"
        yield FieldError("method.name", config.method.name, allowed)
    if config.finetune.patience:
        yield FieldError("finetune.patience", config.finetune.patience, "must be 0 in a population; use member='best'")
    if config.data.binarize == "static":
        allowed = "must be none or dynamic in a population: each seed draws its own images"
        yield FieldError("data.binarize", "static", allowed)
