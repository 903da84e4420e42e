"""The optimiser: an optax chain by name, its schedule, clipping and masks by parameter path."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": lambda lr, c: optax.adam(lr),
    "adamw": lambda lr, c: optax.adamw(lr, weight_decay=c.weight_decay, mask=kernels),
    "nadam": lambda lr, c: optax.nadam(lr),
    "sgd": lambda lr, c: optax.sgd(lr, momentum=c.momentum or None, nesterov=c.nesterov),
    "rmsprop": lambda lr, c: optax.rmsprop(lr, momentum=c.momentum or None),
    "adagrad": lambda lr, c: optax.adagrad(lr),
    "lion": lambda lr, c: optax.lion(lr, weight_decay=c.weight_decay, mask=kernels),
    "lamb": lambda lr, c: optax.lamb(lr, weight_decay=c.weight_decay, mask=kernels),
}
SCHEDULES: dict[str, Callable[[float, float, int], optax.Schedule]] = {
    "constant": lambda peak, end, steps: optax.constant_schedule(peak),
    "cosine": lambda peak, end, steps: optax.cosine_decay_schedule(peak, steps, alpha=end / peak),
    "linear": lambda peak, end, steps: optax.linear_schedule(peak, end, steps),
}


def kernels(params: Any) -> Any:
    """True for kernels, False for biases, scales and single numbers: what weight decay applies to."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """Learning rate as a function of the step: linear warm-up, then the named schedule to the last step."""
    warmup = min(config.warmup_steps, steps)
    after = SCHEDULES[config.schedule](
        config.learning_rate, config.learning_rate * config.final_fraction, max(steps - warmup, 1)
    )
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, config.learning_rate, warmup), after], [warmup])


def build(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """The optimiser of the config's section `optim` for a run of `steps`."""
    optimizer = OPTIMIZERS[config.name](schedule(config, steps), config)
    return optax.chain(optax.clip_by_global_norm(config.clip), optimizer) if config.clip else optimizer
