"""A use: how evenly the units of the code are used."""

from typing import TYPE_CHECKING, Annotated

import numpy as np

from aejax.fields import Field, at_least
from aejax.trained import Trained
from aejax.uses import Metric, Result, Skip
from aejax.uses.data import Data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {"code_spread": Metric("largest deviation of a unit over the smallest", "ratio", "lower")}


def measure(
    trained: Trained,
    data: Data,
    *,
    examples: Annotated[int, Field("test examples whose codes are looked at", at_least(2))] = 1000,
) -> Result:
    """`test/code_spread`, mean and deviation of each unit as a table, and the deviations as a figure."""
    x = np.asarray(data.test[:examples])
    if len(x) < 2:
        raise Skip("needs at least 2 test examples")
    codes = trained.map(trained.pure_encode, x).reshape(len(x), -1)
    deviations = codes.std(axis=0)
    table = {"unit": range(len(deviations)), "mean": codes.mean(axis=0), "deviation": deviations}
    number = deviations.max() / max(deviations.min(), 1e-12)
    return Result({"test/code_spread": number}, {"units": table}, {"deviations": lambda: draw(deviations)})


def draw(deviations: np.ndarray) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3))
    ax = figure.subplots()
    ax.bar(range(len(deviations)), deviations)
    ax.set(xlabel="unit", ylabel="standard deviation")
    return figure
