"""The optimiser: an optax chain by name, its schedule, clipping and masks by parameter path."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
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


def build(
    config: ConfigDict, steps: int, *, freeze: bool = False, layer_decay: float = 1.0
) -> optax.GradientTransformation:
    """The optimiser of the config's section `optim` for a run of `steps`; the rest as in the section `finetune`."""
    optimizer = OPTIMIZERS[config.name](schedule(config, steps), config)
    chain = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    chain.append(optimizer)
    if freeze or layer_decay != 1:
        chain.append(layer_rates(0.0 if freeze else layer_decay))
    return optax.chain(*chain) if len(chain) > 1 else optimizer


def layer_rates(decay: float) -> optax.GradientTransformation:
    """Multiply the updates of the encoder's layers by decay, decay², ... from the last one down; 0 freezes them."""

    def scale(updates: Any, params: Any) -> Any:
        depths = {path[1:-1]: depth(path) for path, _ in jax.tree_util.tree_leaves_with_path(updates) if encodes(path)}
        order = sorted(set(depths.values()), reverse=True)

        def scaled(path: Any, update: jax.Array) -> jax.Array:
            if not encodes(path):
                return update
            factor = decay ** (1 + order.index(depths[path[1:-1]]))
            return update * factor if factor else jnp.zeros_like(update)

        return jax.tree_util.tree_map_with_path(scaled, updates)

    return optax.stateless(scale)


def encodes(path: Any) -> bool:
    return bool(path[0].key == "encoder")


def depth(path: Any) -> tuple[bool, int]:
    """Where a parameter's layer stands in the encoder: convolutional blocks, then dense layers, by number."""
    names = [entry.key for entry in path[1:-1]]
    number = next(int(name.rsplit("_", 1)[1]) for name in names if name != "dense")
    return "dense" in names, number
