"""How far the codes are from N(0, I), from which samples are decoded."""

from typing import Annotated

import jax.numpy as jnp
import numpy as np

from aejax.fields import Field, at_least
from aejax.losses.divergences import mmd
from aejax.trained import Trained
from aejax.uses.base import Metric, Result, Skip
from aejax.uses.data import Data

METRICS = {"mmd": Metric("squared maximum mean discrepancy from N(0, I), unbiased", "", "lower")}


def measure(
    trained: Trained,
    data: Data,
    *,
    examples: Annotated[int, Field("largest number of test examples whose codes are compared", at_least(2))] = 2000,
) -> Result:
    """`prior/mmd` of the test codes; for a gaussian bottleneck, of their means.

    Baselines: the codes with each unit standardised (`prior/standardized/mmd`), which a linear map achieves, and as
    many draws from N(0, I) (`prior/samples/mmd`), a perfect match.
    """
    x = np.asarray(data.test[:examples])
    if len(x) < 2:
        raise Skip("needs at least 2 test examples")
    codes = trained.map(trained.pure_encode, x).reshape(len(x), -1)
    random = np.random.default_rng(0)
    drawn, other = (random.standard_normal(codes.shape, np.float32) for _ in range(2))
    spread = np.maximum(codes.std(0), 1e-12)
    sets = {"": codes, "standardized/": (codes - codes.mean(0)) / spread, "samples/": other}
    return Result(
        {f"prior/{name}mmd": float(mmd(jnp.asarray(points), jnp.asarray(drawn))) for name, points in sets.items()}
    )
