"""A search: the settings that are drawn from ranges, and successive halving (Jamieson & Talwalkar, 2016)."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax.errors import FieldError, InputError
from aejax.training import sweeps

DIGITS = 4  # significant digits of a drawn number, so that a table shows all of it
REDRAWS = 100  # draws without a new setting after which the ranges are taken to have no other
EXAMPLE = "--range=optim.learning_rate=1e-4..1e-2:log"


class Range(NamedTuple):
    """The numbers from low to high; of an integer field the integers, ends included."""

    field: str
    low: float
    high: float
    log: bool

    @property
    def size(self) -> float:
        """The number of values."""
        return self.high - self.low + 1 if isinstance(self.low, int) else math.inf

    def at(self, u: float) -> float:
        """The value at a share u in [0, 1) of the range; of a logarithmic one, in the logarithm."""
        if self.log:
            value = self.low * (self.high / self.low) ** u
        elif isinstance(self.low, int):
            value = math.floor(self.low + u * self.size)
        else:
            value = self.low + u * (self.high - self.low)
        rounded = round(value) if isinstance(self.low, int) else float(f"{value:.{DIGITS}g}")
        return min(max(rounded, self.low), self.high)


class Choice(NamedTuple):
    """Some values of a field."""

    field: str
    values: list[Any]

    @property
    def size(self) -> float:
        return len(self.values)

    def at(self, u: float) -> Any:
        return self.values[int(u * len(self.values))]


def parse(config: ConfigDict, text: str) -> Range | Choice:
    """The range of FIELD=LOW..HIGH[:log], or the choice of FIELD=VALUE,VALUE,...; raises InputError."""
    field, values, declared = sweeps.varied(config, "range", text)
    ends = re.fullmatch(r"(.+?)\.\.(.+?)(:.*)?", values)
    if ends is None and "," in values:
        return Choice(*sweeps.choice(config, "range", text))
    if ends is None or ends[3] not in (None, ":log"):
        raise InputError(f"--range={text}: must be FIELD=LOW..HIGH, FIELD=LOW..HIGH:log or FIELD=VALUE,VALUE,...")
    if type(declared.default) not in (int, float):
        raise InputError(
            f"--range={text}: a range needs a field that is a number; name a choice: --range={field}=VALUE,VALUE"
        )
    low, high = (declared.parse(f"--range={field}", end.strip()) for end in ends.group(1, 2))
    log = ends[3] is not None
    for end in (low, high):
        if not abs(end) <= config_lib.FLOAT32_MAX:  # so that NaN is caught too
            raise InputError(f"--range={text}: {end} must be finite in float32")
    if low == high:
        raise InputError(f"--range={text}: the ends must differ; one value is --config.{field}={low}")
    if low > high:
        swapped = f"{ends[2]}..{ends[1]}{ends[3] or ''}"
        raise InputError(f"--range={text}: the low end must come first; swap the ends: --range={field}={swapped}")
    if log and low <= 0:
        raise InputError(
            f"--range={text}: the low end of a logarithmic range must be greater than 0, not {low}; "
            "raise it, or leave out :log"
        )
    for end in (low, high):
        for wrong in declared.check(field, end):
            raise InputError(f"--range={text}: {wrong}; choose another end")
    return Range(field, low, high, log)


def ranges(config: ConfigDict) -> list[Range | Choice]:
    """The ranges of a config; raises InputError."""
    texts = tuple(config.population.ranges)
    found = [parse(config, text) for text in texts]
    if len({own.field for own in found}) < len(found):
        raise FieldError("population.ranges", texts, "must name each field once")
    return found


def draw(config: ConfigDict) -> list[dict[str, Any]]:
    """`population.search` settings that differ, a function of the ranges and `seed`; raises InputError.

    They are a Latin hypercube: each of n equal parts of every range holds one of n settings. Settings that are alike,
    after rounding, are drawn once; further hypercubes replace the others.
    """
    count, found = config.population.search, dict[str, dict[str, Any]]()
    given, rng, left = ranges(config), np.random.default_rng(config.seed), REDRAWS
    most = math.prod(own.size for own in given)
    while most >= count > len(found) and left:
        before = len(found)
        shares = [(rng.permutation(count) + rng.random(count)) / count for _ in given]
        for point in zip(*shares, strict=True):
            setting = {own.field: own.at(u) for own, u in zip(given, point, strict=True)}
            found.setdefault(repr(setting), setting)
        left = left - 1 if len(found) == before else REDRAWS
    if len(found) < count:
        of = f"the {most:.0f} settings" if most < count else f"the {len(found)} settings, to {DIGITS} digits,"
        raise FieldError("population.search", count, f"must be at most {of} that these ranges have")
    return list(found.values())[:count]


def ends(steps: int, period: int, halving: int, rungs: int) -> list[int]:
    """The step at which each rung ends: the shares ..., 1/halving², 1/halving, 1 of `steps`, each at an evaluation."""
    found = [-(-steps // (halving ** (rungs - 1 - r) * period)) * period for r in range(rungs)]
    return [min(end, steps) for end in found]


def sizes(count: int, halving: int, lengths: Collection[tuple[int, int]]) -> list[int]:
    """The number of settings in each rung: as many rungs as leave one setting, and as have an evaluation each.

    lengths: the steps of each training, and those between its evaluations.
    """
    found = [count]
    while halving > 1 and halving ** len(found) <= count:
        cuts = [ends(steps, period, halving, len(found) + 1) for steps, period in lengths]
        if any(len(set(own)) < len(own) for own in cuts):
            break
        found.append(-(-found[-1] // halving))
    return found


def ranked(losses: Mapping[int, float]) -> list[int]:
    """Settings by increasing loss; those that are not finite come last, equal ones in their order."""
    return sorted(losses, key=lambda setting: (losses[setting], setting))


def mean(losses: Sequence[float]) -> float:
    """The loss of a setting from those of its seeds; inf if one has none."""
    return float(np.mean(losses)) if np.isfinite(losses).all() else math.inf
