"""The optimiser: an optax chain by name, its schedule, clipping and masks by parameter path."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from aejax import fields
from aejax.errors import FieldError
from aejax.fields import Field, above, at_least, one_of, within

Momentum = Annotated[float, Field("sgd, rmsprop: momentum", within(0, 1, brackets="[)"))]
Decay = Annotated[float, Field("adamw, lion, lamb: decoupled weight decay, on kernels only", at_least(0))]
Transformation: TypeAlias = optax.GradientTransformation


def adam(rate: optax.Schedule) -> Transformation:
    return optax.adam(rate)


def adamw(rate: optax.Schedule, *, weight_decay: Decay = 0.0) -> Transformation:
    return optax.adamw(rate, weight_decay=weight_decay, mask=kernels)


def nadam(rate: optax.Schedule) -> Transformation:
    return optax.nadam(rate)


def sgd(
    rate: optax.Schedule,
    *,
    momentum: Momentum = 0.9,
    nesterov: Annotated[bool, Field("sgd: Nesterov's momentum")] = False,
) -> Transformation:
    return optax.sgd(rate, momentum=momentum or None, nesterov=nesterov)


def rmsprop(rate: optax.Schedule, *, momentum: Momentum = 0.9) -> Transformation:
    return optax.rmsprop(rate, momentum=momentum or None)


def adagrad(rate: optax.Schedule) -> Transformation:
    return optax.adagrad(rate)


def lion(rate: optax.Schedule, *, weight_decay: Decay = 0.0) -> Transformation:
    return optax.lion(rate, weight_decay=weight_decay, mask=kernels)


def lamb(rate: optax.Schedule, *, weight_decay: Decay = 0.0) -> Transformation:
    return optax.lamb(rate, weight_decay=weight_decay, mask=kernels)


# Each is a function (learning rate as a schedule, **fields). All share the section `optim`: a field that two of them
# have is declared once and used by both.
OPTIMIZERS: dict[str, Callable[..., Transformation]] = {
    "adam": adam,
    "adamw": adamw,
    "nadam": nadam,
    "sgd": sgd,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
    "lion": lion,
    "lamb": lamb,
}
SCHEDULES: dict[str, Callable[[float, float, int], optax.Schedule]] = {
    "constant": lambda peak, end, steps: optax.constant_schedule(peak),
    "cosine": lambda peak, end, steps: optax.cosine_decay_schedule(peak, steps, alpha=end / peak),
    "linear": lambda peak, end, steps: optax.linear_schedule(peak, end, steps),
}


@dataclasses.dataclass(frozen=True)
class Fields:
    """The section `optim`, apart from the fields of the optimisers."""

    name: Annotated[
        str, Field("optimiser: adam | adamw | sgd | rmsprop | adagrad | nadam | lion | lamb", one_of(OPTIMIZERS))
    ] = "adam"
    learning_rate: Annotated[float, Field("largest learning rate, reached after the warm-up", above(0))] = 1e-3
    schedule: Annotated[
        str,
        Field(
            "learning-rate schedule: constant | cosine | linear (the last two end at final_fraction)", one_of(SCHEDULES)
        ),
    ] = "constant"
    warmup_steps: Annotated[int, Field("steps of the warm-up from 0 to learning_rate", at_least(0))] = 0
    final_fraction: Annotated[float, Field("fraction of learning_rate at the last step", within(0, 1))] = 0.0
    clip: Annotated[float, Field("largest global norm of the gradient; 0 = off", at_least(0))] = 0.0
    accumulate: Annotated[
        int, Field("parts into which a batch is split to save memory; their gradients are averaged", at_least(1))
    ] = 1
    ema: Annotated[
        float,
        Field(
            "decay per step of an average of the parameters, which is used for evaluation; 0 = off",
            within(0, 1, brackets="[)"),
        ),
    ] = 0.0


def check(config: Any) -> Iterator[FieldError]:
    """Errors of the section `optim` with the rest of the config."""
    optim, batch = config.optim, config.train.batch_size
    if batch % optim.accumulate:
        yield FieldError("optim.accumulate", optim.accumulate, f"must divide config.train.batch_size = {batch}")
    if optim.weight_decay and "weight_decay" not in fields.declared(OPTIMIZERS[optim.name]):
        yield FieldError("optim.weight_decay", optim.weight_decay, "needs optim.name = adamw, lion or lamb")


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


def build(config: ConfigDict, steps: int, *, freeze: bool = False, layer_decay: float = 1.0) -> Transformation:
    """The optimiser of the config's section `optim` for `steps` steps, with the fields of `finetune`."""
    make = OPTIMIZERS[config.name]
    optimizer = make(schedule(config, steps), **fields.chosen(make, config))
    chain = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    chain.append(optimizer)
    if freeze or layer_decay != 1:
        chain.append(layer_rates(0.0 if freeze else layer_decay))
    return optax.chain(*chain) if len(chain) > 1 else optimizer


def layer_rates(decay: float) -> Transformation:
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
    """The position of a parameter's layer in the encoder: convolutional blocks, then dense layers, by number."""
    names = [entry.key for entry in path[1:-1]]
    number = next(int(name.rsplit("_", 1)[1]) for name in names if name != "dense")
    return "dense" in names, number
