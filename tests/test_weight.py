"""The weight of a term as a function of the step, beside plain Python."""

import jax.numpy as jnp
import pytest

from aejax.losses.weight import schedule


def expected(name, step, weight, begin, steps):
    t = step - begin
    if t < 0:
        return 0.0
    rise = {"constant": 1.0, "linear": t / steps, "cyclic": 2 * (t % steps) / steps}[name]
    return weight * min(rise, 1.0)


@pytest.mark.parametrize("name", ["constant", "linear", "cyclic"])
def test_weight_at_every_step(name):
    weight = schedule(weight=0.5, schedule=name, begin=3, steps=8)
    found = [float(weight(jnp.int32(step))) for step in range(30)]
    assert found == pytest.approx([expected(name, step, 0.5, 3, 8) for step in range(30)])
    assert found[2] == 0
    assert max(found) == 0.5
