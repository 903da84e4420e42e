"""Greedy layer-wise pretraining, and initial parameters from the stages or from another run."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax import experiment as experiment_lib
from aejax.data import feed, sources
from aejax.data.bags import dense
from aejax.data.dataset import Arrays, Dataset
from aejax.data.sources import folder
from aejax.data.spec import Field, Spec
from aejax.errors import FieldError, FieldErrors, InputError, NonFiniteError, raise_all
from aejax.experiment import Experiment
from aejax.models import ACTIVATIONS
from aejax.pairs.example import scale
from aejax.parallel import mesh as mesh_lib
from aejax.parallel import processes
from aejax.storage import metrics as metrics_lib
from aejax.storage import run_dir, saved
from aejax.training import plan
from aejax.training.loop import optimize
from aejax.training.trainer import Trainer

Params = Mapping[str, Any]
BATCH = 1000  # rows whose codes are computed at a time
BOUNDS = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, np.inf)}  # of a code, by its activation


@dataclasses.dataclass(frozen=True)
class Stages:
    """The result of pretraining: each stage's parameters, its numbers, and the steps and seconds of all."""

    params: list[Params]
    results: dict[str, float]
    steps: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Origin:
    """Parameters of another run, and where they come from."""

    params: Params
    name: str


def run(config: ConfigDict, path: Path, data: Dataset, mesh: jax.sharding.Mesh, stop: Callable[[], bool]) -> Stages:
    """Train the unfinished stages, each on the codes of the frozen stages below it.

    These codes are computed once per stage and stay on the devices. The stage's pair corrupts them; the target is the
    uncorrupted code. Bengio et al. (2007); with contrastive divergence Hinton & Salakhutdinov (2006).
    """
    params: list[Params] = []
    results: dict[str, float] = {}
    steps, seconds = 0, 0.0
    codes = data
    for k in range(len(config.pretrain.widths)):
        if k:
            codes = encode(params[-1], config.pretrain[f"stage_{k - 1}"].code_activation, codes)
        trainer = Trainer(experiment_lib.build(plan.stage(config, k), codes.spec), codes, mesh)
        name = f"stage_{k}"
        try:
            done = optimize(trainer, path, stop, stage=name, offset=steps, digest=digest(config, k, data.spec.digest))
        except NonFiniteError as error:
            raise NonFiniteError(f"stage {k}, {error}") from error
        steps, seconds = steps + trainer.steps, seconds + done.progress.seconds
        state = done.state
        params.append(trainer.gather(state.params if state.ema is None else state.ema))
        if processes.first():
            lines = [m for m in metrics_lib.read(path) if m.get("stage") == name and m["split"] == "test"]
            results |= {f"{name}/{term}": lines[-1][term] for term in ("reconstruction", "squared_error")}
    return Stages(params, results, steps, seconds)


def digest(config: ConfigDict, k: int, data: str) -> str:
    """Identifies stage k by the data and the configs of this and the earlier stages.

    Only fields that differ from their default count, so a field that a later version adds changes nothing.
    """
    usual = config_lib.identity(config_lib.default())
    stages = [config_lib.identity(plan.stage(config, i)) for i in range(k + 1)]
    own = [{field: value for field, value in stage.items() if value != usual.get(field)} for stage in stages]
    return hashlib.sha256(json.dumps([data, own], sort_keys=True).encode()).hexdigest()[:16]


def encode(params: Params, activation: str, data: Dataset) -> Dataset:
    """The data encoded by a stage, as float32 tables."""
    layer = params["encoder"]["layers_0"]
    width = len(layer["bias"])

    @jax.jit
    def code(x: jax.Array) -> jax.Array:
        h = scale({"x": x})["x"].reshape(len(x), -1)
        return ACTIVATIONS[activation](h @ layer["kernel"] + layer["bias"][None])

    def codes(split: Arrays) -> Arrays:
        x = split["x"]
        made = np.empty((x.shape[0], width), np.float32)
        for rows, _ in zip(*feed.batches(x.shape[0], BATCH), strict=True):
            made[rows] = np.asarray(code(dense(x[rows])))
        return {**split, "x": made}

    train, validation, test = (codes(split) for split in (data.train, data.validation, data.test))
    return Dataset(train, validation, test, describe(data.spec, width, activation))


def describe(spec: Spec, width: int, activation: str) -> Spec:
    """The description of the codes of a stage on data of `spec`."""
    low, high = BOUNDS.get(activation, (-np.inf, np.inf))
    codes = Field("table", (width,), "float32", low=low, high=high)
    return dataclasses.replace(spec, fields={**spec.fields, "x": codes})


def check(config: ConfigDict, spec: Spec, mesh: jax.sharding.Mesh) -> None:
    """Check every stage before anything is written; raises InputError."""
    for k, width in enumerate(config.pretrain.widths):
        own = plan.stage(config, k)
        try:
            config_lib.check(own)
            raise_all(plan.check(own))
            raise_all(experiment_lib.check(own, spec))
            if k and own.objective.likelihood == "categorical":
                raise FieldError("objective.likelihood", "categorical", "needs counts, which codes are not")
            mesh_lib.check_batch(mesh, "train.batch_size", own.train.batch_size)
        except FieldError as error:
            raise FieldError(plan.origin(error.field, k), error.value, error.allowed) from error
        except FieldErrors as error:
            moved = (FieldError(plan.origin(one.field, k), one.value, one.allowed) for one in error.errors)
            raise FieldErrors(list(moved)) from error
        except InputError as error:
            raise InputError(f"stage {k} of config.pretrain: {error}") from error
        spec = describe(spec, width, own.model.code_activation)


def origin(experiment: Experiment) -> Origin | None:
    """The parameters of the run that config.init_from names; raises InputError if they do not fit this model."""
    config, spec = experiment.config, experiment.spec
    if not config.init_from:
        return None
    path = Path(config.init_from).expanduser()
    try:
        stored, before = run_dir.read(path)
    except InputError as error:
        raise FieldError("init_from", config.init_from, str(error)) from error
    try:
        trained = saved.load(path)
    except InputError as error:
        raise FieldError("init_from", config.init_from, str(error)) from error
    if stored.model.encoder.norm == "batch":
        allowed = "must have model.encoder.norm none or layer: batch statistics are not copied"
        raise FieldError("init_from", config.init_from, allowed)
    parts, known = tuple(config.init_from_parts), trained.params
    for part in parts:
        if part not in known and part != "bottleneck":  # most bottlenecks have no parameters
            allowed = f"must be components of the run of config.init_from, {path}: {', '.join(known)}"
            raise FieldError("init_from_parts", part, allowed)
    taken = {part: jax.tree.map(np.asarray, known[part]) for part in parts if part in known}
    found = Origin(taken, f"config.init_from = {config.init_from!r}")
    match(jax.eval_shape(experiment.init).params, found)
    done = "a finished run" if run_dir.read_results(path) is not None else "a run that is not finished"
    print(f"starts from the {' and the '.join(taken)} of {path}, {done} on {stored.data.source}", flush=True)
    # With other values of these fields the parameters would fit, but give another function.
    fields = ["model.name", "model.code_activation", "data.standardize", "pair.input"]
    fields += ["data.text"] if spec.x.text else []
    fields += ["model.encoder.activation"] if len(known["encoder"]) > 1 else []
    fields += ["model.conv.downsample", "model.conv.factor"] if config.model.name == "conv" else []
    if config.data.source == stored.data.source and config.data.source.startswith("images:") and before.format == 1:
        argument = sources.parse(config.data.source)[1]
        if folder.is_reordered(folder.parts(argument, config)):
            allowed = (
                "an earlier version trained it and read the folder in another order, so that examples of this test "
            )
            raise FieldError("init_from", config.init_from, allowed + "split may be among its training examples")
    # With another split of the same data, the test split would hold examples that the other run trained on.
    if config.data.source == stored.data.source or spec.digest == before.digest:
        fields += ["data.split_seed", "data.test_fraction"]
    for field in fields:
        own, other = config_lib.get(config, field), config_lib.get(stored, field)
        if own != other:
            raise FieldError(field, own, f"must be {other!r} as in the run of config.init_from, {path}")
    if (spec.x.columns, spec.x.categories) != (before.x.columns, before.x.categories):
        allowed = f"must have the columns of the run of config.init_from, {path}, in order"
        raise FieldError("data.source", config.data.source, allowed)
    if config.data.labeled_examples and stored.pair.name == "label":
        raise FieldError("init_from", config.init_from, "must have been trained without labels; it has seen them all")
    return found


def initial_params(params: Params, stages: Stages, origin: Origin | None, *, classifier: bool) -> Params:
    """Random parameters, replaced by those of the stages or of another run if there are any; raises InputError."""
    if stages.params:
        whole = unroll(stages.params, tied="kernel" not in params["decoder"]["layers_0"])
        return graft(params, Origin({"encoder": whole["encoder"]} if classifier else whole, "the stages"))
    return params if origin is None else graft(params, origin)


def unroll(stages: list[Params], *, tied: bool) -> Params:
    """The stages as one autoencoder: encoders upwards, then decoders downwards (Hinton & Salakhutdinov, 2006).

    The decoder layer of a tied stage starts from the transposed kernel of its encoder.
    """
    encoder = {f"layers_{k}": stage["encoder"]["layers_0"] for k, stage in enumerate(stages)}
    decoder = {}
    for k, stage in enumerate(reversed(stages)):
        own = {"kernel": stage["encoder"]["layers_0"]["kernel"].T} | dict(stage["decoder"]["layers_0"])
        decoder[f"layers_{k}"] = {name: value for name, value in own.items() if name == "bias" or not tied}
    return {"encoder": encoder, "decoder": decoder}


def graft(params: Params, origin: Origin) -> Params:
    """`params` with every leaf of the origin in its place; raises InputError."""
    match(params, origin)
    other = _leaves(origin.params)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: other.get(_name(path), leaf), params)


def match(params: Params, origin: Origin) -> None:
    """Raise InputError with the leaves that have no counterpart of their name and shape, on both sides."""
    here, there = _leaves({part: params[part] for part in origin.params}), _leaves(origin.params)
    sides = []
    for own, other in ((there, here), (here, there)):
        left = [n for n, leaf in own.items() if n not in other or other[n].shape != leaf.shape]
        sides.append("; ".join(f"{n} {own[n].shape}" for n in left) or "nothing")
    if sides != ["nothing"] * 2:
        raise InputError(f"{origin.name}: cannot be matched: there {sides[0]}; here {sides[1]}")


def _leaves(tree: Params) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: Any) -> str:
    return "/".join(entry.key for entry in path)
