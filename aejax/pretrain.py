"""Greedy layer-wise pretraining, stage by stage, and what a run begins with: its stages, or another run's encoder."""

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
from aejax import mesh as mesh_lib
from aejax import pairs, plan, predict, processes, run_dir, steps, validation
from aejax.data import feed
from aejax.data.bags import dense
from aejax.data.dataset import Arrays, Dataset, Spec
from aejax.errors import FieldError, InputError, NonFiniteError
from aejax.loop import optimize
from aejax.models import ACTIVATIONS
from aejax.trainer import Trainer

Params = Mapping[str, Any]
BATCH = 1000  # rows whose codes are computed at a time
BOUNDS = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, np.inf)}  # of a code, by its activation


@dataclasses.dataclass(frozen=True)
class Stages:
    """What pretraining leaves: each stage's parameters, its numbers, and the steps and seconds of all."""

    params: list[Params]
    results: dict[str, float]
    steps: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Given:
    """Parameters of another run, and where they are from."""

    params: Params
    origin: str


def run(config: ConfigDict, path: Path, data: Dataset, mesh: jax.sharding.Mesh, stop: Callable[[], bool]) -> Stages:
    """Train the stages that are not finished, each on the codes of the frozen ones below it.

    Those codes are computed once for a stage and stay on the devices; its pair corrupts them, and the code
    below is its target. Bengio et al. (2007); with contrastive divergence Hinton & Salakhutdinov (2006).
    """
    params: list[Params] = []
    results: dict[str, float] = {}
    taken, seconds = 0, 0.0
    codes = data
    for k in range(len(config.pretrain.widths)):
        if k:
            codes = encode(params[-1], config.pretrain[f"stage_{k - 1}"].code_activation, codes)
        trainer = Trainer(plan.stage(config, k), codes, mesh)
        name = f"stage_{k}"
        try:
            state, meta, _ = optimize(
                trainer, path, stop, stage=name, offset=taken, digest=digest(config, k, data.spec.digest)
            )
        except NonFiniteError as error:
            raise NonFiniteError(f"stage {k}, {error}") from error
        taken, seconds = taken + trainer.steps, seconds + meta["seconds"]
        params.append(trainer.gather(state.params if state.ema is None else state.ema))
        if processes.first():
            lines = [m for m in run_dir.read_metrics(path) if m.get("stage") == name and m["split"] == "test"]
            results |= {f"{name}/{term}": lines[-1][term] for term in ("reconstruction", "squared_error")}
    return Stages(params, results, taken, seconds)


def digest(config: ConfigDict, k: int, data: str) -> str:
    """What determines stage k: the data, and the configs of this and the earlier stages.

    Of those what is not the default, so that a field which a later version adds changes nothing.
    """
    usual = config_lib.identity(config_lib.default())
    stages = [config_lib.identity(plan.stage(config, i)) for i in range(k + 1)]
    own = [{field: value for field, value in stage.items() if value != usual.get(field)} for stage in stages]
    return hashlib.sha256(json.dumps([data, own], sort_keys=True).encode()).hexdigest()[:16]


def encode(params: Params, activation: str, data: Dataset) -> Dataset:
    """The data as the code of a stage, float32 tables."""
    layer = params["encoder"]["layers_0"]
    width = len(layer["bias"])

    @jax.jit
    def code(x: jax.Array) -> jax.Array:
        h = pairs.scale({"x": x})["x"].reshape(len(x), -1)
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
    """What is known of the codes of a stage on data of `spec`."""
    low, high = BOUNDS.get(activation, (-np.inf, np.inf))
    table = Spec("table", (width,), "float32", spec.train, spec.validation, spec.test, low, high)
    return dataclasses.replace(table, classes=spec.classes, digest=spec.digest)


def check(config: ConfigDict, spec: Spec, mesh: jax.sharding.Mesh) -> None:
    """Check every stage before anything is written; raises InputError."""
    for k, width in enumerate(config.pretrain.widths):
        own = plan.stage(config, k)
        try:
            validation.validate(own)
            validation.validate_shapes(own, spec)
            if k and own.objective.likelihood == "categorical":
                raise config_lib.fail("objective.likelihood", "categorical", "needs counts, and codes are none")
            mesh_lib.check_batch(mesh, "train.batch_size", own.train.batch_size)
        except FieldError as error:
            raise config_lib.fail(plan.origin(error.field, k), error.value, error.allowed) from error
        except InputError as error:
            raise InputError(f"stage {k} of config.pretrain: {error}") from error
        spec = describe(spec, width, own.model.code_activation)


def given(config: ConfigDict, spec: Spec) -> Given | None:
    """The encoder of the run that config.init_from names; raises InputError where it does not fit the model here."""
    if not config.init_from:
        return None
    path = Path(config.init_from)
    try:
        stored, before = run_dir.read(path)
    except InputError as error:
        raise config_lib.fail("init_from", config.init_from, str(error)) from error
    if run_dir.read_results(path) is None:
        raise config_lib.fail("init_from", config.init_from, "must be finished: it has no results")
    found = Given({"encoder": predict.load(path).params["encoder"]}, f"config.init_from = {config.init_from!r}")
    state = jax.eval_shape(lambda: steps.init(steps.build(config, spec, 1), spec))
    match(state.params, found.params, found.origin)
    # The parameters fit whatever stands between the layers, and would mean another function.
    if stored.model.encoder.norm == "batch":
        raise config_lib.fail(
            "init_from", config.init_from, "must have model.encoder.norm none or layer: statistics are not carried over"
        )
    fields = ["model.name", "model.code_activation", "data.standardize", "pair.input"]
    fields += ["data.text"] if spec.text else []
    fields += ["model.encoder.activation"] if len(found.params["encoder"]) > 1 else []
    fields += ["model.conv.downsample", "model.conv.factor"] if config.model.name == "conv" else []
    if (
        config.data.source == stored.data.source or spec.digest == before.digest
    ):  # another split would test what has been trained on
        fields += ["data.split_seed", "data.test_fraction"]
    for field in fields:
        own, other = config_lib.get(config, field), config_lib.get(stored, field)
        if own != other:
            raise config_lib.fail(field, own, f"must be {other!r} as in the run of config.init_from, {path}")
    if spec.columns != before.columns:
        raise config_lib.fail(
            "data.source", config.data.source, f"must have the columns of the run of config.init_from, {path}, in order"
        )
    if config.data.labeled_examples and stored.pair.name == "label":
        raise config_lib.fail("init_from", config.init_from, "must have been trained without labels: it knows them all")
    return found


def begin(params: Params, stages: Stages, given: Given | None, *, classifier: bool) -> Params:
    """Parameters drawn at random, with those of the stages or of another run in their places; raises InputError."""
    if stages.params:
        whole = unroll(stages.params, tied="kernel" not in params["decoder"]["layers_0"])
        return graft(params, {"encoder": whole["encoder"]} if classifier else whole, "the stages")
    return params if given is None else graft(params, given.params, given.origin)


def unroll(stages: list[Params], *, tied: bool) -> Params:
    """The stages as one autoencoder: encoders upwards, then decoders downwards (Hinton & Salakhutdinov, 2006).

    A stage's tied decoder starts the whole one's from the transposed kernel.
    """
    encoder = {f"layers_{k}": stage["encoder"]["layers_0"] for k, stage in enumerate(stages)}
    decoder = {}
    for k, stage in enumerate(reversed(stages)):
        own = {"kernel": stage["encoder"]["layers_0"]["kernel"].T} | dict(stage["decoder"]["layers_0"])
        decoder[f"layers_{k}"] = {name: value for name, value in own.items() if name == "bias" or not tied}
    return {"encoder": encoder, "decoder": decoder}


def graft(params: Params, given: Params, origin: str) -> Params:
    """`params` with every leaf of `given` in its place; raises InputError."""
    match(params, given, origin)
    other = _leaves(given)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: other.get(_name(path), leaf), params)


def match(params: Params, given: Params, origin: str) -> None:
    """Raises InputError with what has no counterpart of its name and shape, on both sides."""
    here, there = _leaves({part: params[part] for part in given}), _leaves(given)
    sides = []
    for own, other in ((there, here), (here, there)):
        left = [n for n, leaf in own.items() if n not in other or other[n].shape != leaf.shape]
        sides.append("; ".join(f"{n} {own[n].shape}" for n in left) or "nothing")
    if sides != ["nothing"] * 2:
        raise InputError(f"{origin}: cannot be matched: there {sides[0]}; here {sides[1]}")


def _leaves(tree: Params) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: Any) -> str:
    return "/".join(entry.key for entry in path)
