"""One experiment: every part that a config and a dataset determine, built once and handed on; and its state."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from aejax import methods, models, pairs
from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.methods import objective as objective_lib
from aejax.methods import optim
from aejax.methods.objective import Objective
from aejax.methods.phase import Method, Phase
from aejax.parallel import prng

MOST = 4 * 2**30  # bytes of a sparse table once it is dense on the device


@flax.struct.dataclass
class State:
    """Everything that training changes. It holds no random state: draws are functions of the step."""

    step: jax.Array
    params: Any  # components at the top: encoder, bottleneck, decoder, head, and those of the method
    variables: Any  # not trained by gradient: batch statistics, and under "method" the state of the method
    opt_state: Any  # of the optimiser; a dict by phase if the method has several phases
    ema: Any  # average of the parameters, or None


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that training does not change."""

    config: ConfigDict
    spec: Spec
    objective: Objective
    method: Method
    phases: tuple[Phase, ...]
    learning_rate: optax.Schedule
    key: jax.Array
    evaluation_key: jax.Array  # does not depend on the seed: seeds are compared on the same draws
    steps: int  # of the whole training
    steps_per_epoch: int

    @property
    def model(self) -> models.Autoencoder:
        return self.objective.model

    @property
    def pair(self) -> pairs.Pair:
        return self.objective.pair

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an example."""
        return self.spec.x.shape

    @property
    def accumulate(self) -> int:
        return int(self.config.optim.accumulate)

    @property
    def ema(self) -> float:
        return float(self.config.optim.ema)

    @property
    def has_prior(self) -> bool:
        """Codes from N(0, I) can be decoded."""
        gaussian = self.config.model.bottleneck.name == "gaussian"
        return (gaussian or self.method.prior) and not self.pair.conditional

    @property
    def decodable(self) -> bool:
        """A code alone can be decoded to an example."""
        return not (self.pair.conditional or self.pair.supervised or self.model.needs_context)

    def init(self) -> State:
        """The state at step 0."""
        example = self.objective.examples.shapes(self.shape)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), example)
        variables = dict(self.model.init(self.key, zeros.input, condition=zeros.condition))
        params = variables.pop("params")
        params |= self.method.init(self.key, self.objective)
        if self.method.refreshes:
            variables["method"] = self.method.variables(params, variables)
        ema = jax.tree.map(jnp.copy, params) if self.ema else None
        opt_states = {phase.name: phase.optimizer.init(phase.select(params)) for phase in self.phases}
        (opt_state,) = opt_states.values() if len(opt_states) == 1 else (opt_states,)
        return State(jnp.zeros((), jnp.int32), params, variables, opt_state, ema)


def build(config: ConfigDict, spec: Spec) -> Experiment:
    """The experiment of a resolved config on data described by `spec`."""
    tuning, per_epoch = config.finetune, spec.train // config.train.batch_size
    steps = 0 if tuning.name == "none" else _steps(config, per_epoch)
    method = methods.build(config.method).bind(spec, per_epoch)
    objective = method.objective(objective_lib.build(config, build_model(config, spec), spec))
    optimizer = optim.build(config.optim, steps, freeze=tuning.freeze, layer_decay=tuning.layer_decay)
    return Experiment(
        config=config,
        spec=spec,
        objective=objective,
        method=method,
        phases=method.phases(objective, optimizer),
        learning_rate=optim.schedule(config.optim, steps),
        key=prng.key(config.seed),
        evaluation_key=prng.key(0),
        steps=steps,
        steps_per_epoch=per_epoch,
    )


def _steps(config: ConfigDict, per_epoch: int) -> int:
    return int(config.train.steps or config.train.epochs * per_epoch)


def build_model(config: ConfigDict, spec: Spec) -> models.Autoencoder:
    """The model of a config: its output has the shape of the pair's target."""
    example = pairs.build(config.pair, spec).shapes(spec.x.shape)
    head = models.LogSigma(float(np.log(config.objective.sigma))) if config.objective.learn_sigma else None
    of_input = {"rank": example.input.ndim, "vocabulary": len(spec.x.classes)}
    return models.build(config.model, shape=example.target.shape[1:], output=example.head, head=head, **of_input)


def check(config: ConfigDict, spec: Spec) -> Iterator[FieldError]:
    """Errors of a resolved config on data of `spec`."""
    yield from models.FAMILIES[config.model.name].check_data(config, spec)
    if spec.x.kind == "tokens":
        if config.model.name != "seq2seq":
            yield FieldError("model.name", config.model.name, "must be seq2seq for tokens")
        if config.pair.name not in ("reconstruct", "caption", "label"):
            yield FieldError("pair.name", config.pair.name, "must be reconstruct, caption or label for tokens")
    batch = config.train.batch_size
    if batch > spec.train:
        yield FieldError("train.batch_size", batch, f"must be at most the {spec.train} training examples")
    steps = _steps(config, spec.train // batch)
    if config.optim.warmup_steps > steps > 0 and not config.data.labeled_examples:
        allowed = f"must be at most the {steps} steps of training"
        yield FieldError("optim.warmup_steps", config.optim.warmup_steps, allowed)
    yield from _check_values(config, spec)
    if config.data.binarize != "none" and spec.x.kind != "image":
        yield FieldError("data.binarize", config.data.binarize, f"must be none for a {spec.x.kind}")
    pair = pairs.pair(config.pair)
    found = list(pair.check_data(config, spec))
    yield from found
    yield from methods.build(config.method).check_data(config, spec)
    if config.model.decoder.tied and not found:
        shapes = pairs.build(config.pair, spec).shapes(spec.x.shape)
        if math.prod(shapes.input.shape) != math.prod(shapes.target.shape):
            sizes = f"{shapes.input.shape[1:]} and {shapes.target.shape[1:]}"
            allowed = f"needs input and target of equal size; pair {config.pair.name} gives {sizes}"
            yield FieldError("model.decoder.tied", True, allowed)


def _check_values(config: ConfigDict, spec: Spec) -> Iterator[FieldError]:
    """Whether likelihood and input transform suit the values of the examples."""
    supervised = pairs.pair(config.pair).supervised or config.finetune.name == "classifier"
    likelihood, transform, x = config.objective.likelihood, config.pair.input, spec.x
    size = (spec.train + spec.validation + spec.test) * math.prod(x.shape) * np.dtype(x.dtype).itemsize
    if x.sparse and size > MOST:
        allowed = f"is sparse; on the device, dense, it takes {size / 2**30:.1f} GiB, more than {MOST / 2**30:.0f}"
        ways = "take fewer columns or rows (text: data.vocabulary)"
        yield FieldError("data.source", config.data.source, f"{allowed}; {ways}")
    if x.kind in ("image", "video", "tokens"):
        plural = x.kind if x.kind == "tokens" else f"{x.kind}s"
        if likelihood == "categorical" and not (supervised or x.kind == "tokens"):
            allowed = f"needs pair.name = 'label' or 'caption', or counts; the data are {plural}"
            yield FieldError("objective.likelihood", likelihood, allowed)
        if likelihood != "categorical" and x.kind == "tokens":
            yield FieldError("objective.likelihood", likelihood, "must be categorical for tokens")
        if transform != "identity":
            yield FieldError("pair.input", transform, f"must be identity for {plural}")
        return
    asked = []
    if likelihood == "bernoulli" or (likelihood == "categorical" and not supervised):
        gaussian = config.model.bottleneck.name == "gaussian"
        asked.append(("objective.likelihood", likelihood, f"; take gaussian{'' if gaussian else ' or squared_error'}"))
    if transform != "identity":
        asked.append(("pair.input", transform, "; take identity"))
    for field, value, instead in asked:
        most, wanted = (1.0, "targets in [0, 1]") if value == "bernoulli" else (math.inf, "counts, 0 or more")
        if x.mean:
            own = "or data.standardize=False if its raw values are such"
            yield FieldError(field, value, f"needs {wanted}; this {x.kind} is standardised{instead}, {own}")
        elif not 0 <= x.low <= x.high <= most:
            yield FieldError(field, value, f"needs {wanted}, found {x.low:g} to {x.high:g}")
