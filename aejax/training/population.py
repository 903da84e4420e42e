"""Members of a population: experiments of one program, trained in one compiled step."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from aejax import config as config_lib
from aejax import experiment as experiment_lib
from aejax.data import feed
from aejax.data.dataset import Dataset
from aejax.errors import NonFiniteError
from aejax.experiment import Experiment, State
from aejax.losses import PENALTIES
from aejax.pairs import splits
from aejax.parallel import mesh as mesh_lib
from aejax.parallel import prng
from aejax.training import step as step_lib
from aejax.training.trainer import LAST, InitialParams, flat, summary

# Numbers of the config that may differ between the members of one program, unless one of them is 0, which leaves a part
# of the program out.
TRACED = (
    "optim.learning_rate",
    "optim.weight_decay",
    "objective.reconstruction.weight",
    *(f"objective.{name}.weight" for name in PENALTIES),
    "pair.denoise.level",
    "model.encoder.dropout",
    "model.decoder.dropout",
)


class Group:
    """Experiments that differ only in their seed and in TRACED numbers: every step trains all of them.

    Each member has the parameters, the order of examples and the draws of a run of its own; its numbers are those of
    that run up to rounding. data: what all share, which each device then holds, or the data of each member. rows: the
    training rows that each member sees, by default all. The members are split over the axis "member" of the mesh; if it
    does not divide them, copies of the last one fill up and are never trained.
    """

    def __init__(
        self,
        experiments: Sequence[Experiment],
        data: Dataset | Sequence[Dataset],
        rows: Sequence[np.ndarray] | None = None,
    ):
        first = experiments[0]
        self.experiments, self.config, self.steps = experiments, first.config, first.steps
        train = self.config.train
        self.specs = [one.spec for one in ([data] * len(experiments) if isinstance(data, Dataset) else data)]
        self.rows = rows or [np.arange(spec.train) for spec in self.specs]
        self.feeds = [
            feed.Feed(own.config.seed, len(seen), train.batch_size)
            for own, seen in zip(experiments, self.rows, strict=True)
        ]
        self.period = feed.period(self.steps, self.feeds[0].steps_per_epoch, train.eval_epochs)
        self.length = feed.interval_length(self.period, train.log_steps)
        self.failed: dict[int, int] = {}  # member -> the step in which its loss was not finite

        self.mesh = mesh_lib.members(len(experiments))
        devices = self.mesh.shape["member"]
        self.size = -(-len(experiments) // devices) * devices
        self._split, self._whole = mesh_lib.along(self.mesh, "member"), mesh_lib.replicated(self.mesh)
        own = [*experiments, *[experiments[-1]] * (self.size - len(experiments))]
        self.traced = differing([one.config for one in own])
        values = [np.array([config_lib.get(one.config, name) for one in own], np.float32) for name in self.traced]
        seeds = np.array([one.config.seed for one in own], np.uint32)
        self._own = mesh_lib.put((seeds, values), self._split)
        axis = None if isinstance(data, Dataset) else "member"
        self._train, self._held_out = (
            mesh_lib.put(part, self._split if axis else self._whole) for part in self._held(data)
        )
        self.eval_batch_size = min(train.eval_batch_size, max(max(s.validation, s.test) for s in self.specs))

        self._init = self._each(lambda experiment: experiment.init(), ())
        self.abstract = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=self._split),
            jax.eval_shape(self._init, self._own),
        )
        self._advance = self._each(
            lambda experiment, state, rows, skip, data: step_lib.train_steps(
                state, data, rows, skip, experiment=experiment
            ),
            ("member", "member", "member", axis),
            donate=1,
        )
        self._measure = self._each(
            lambda experiment, state, data, rows, mask: step_lib.eval_step(
                state, data, rows, mask, experiment=experiment
            ),
            ("member", axis, "member", "member"),
        )
        self._choose = jax.jit(
            lambda which, a, b: jax.tree.map(
                lambda x, y: jnp.where(which.reshape(-1, *[1] * (x.ndim - 1)), x, y), a, b
            ),
            out_shardings=self._split,
        )

    def _held(self, data: Dataset | Sequence[Dataset]) -> tuple[Any, Any]:
        """Training and held-out examples; of several datasets with a leading axis of members, padded to one length."""
        each = [data] if isinstance(data, Dataset) else [*data, *[data[-1]] * (self.size - len(data))]
        key = self.experiments[0].evaluation_key
        parts = [(flat(one.train), flat(splits.held_out(self.config, key, one))) for one in each]
        if isinstance(data, Dataset):
            return parts[0]

        def stack(*leaves: np.ndarray) -> np.ndarray:
            most = max(map(len, leaves))
            return np.stack([np.pad(leaf, ((0, most - len(leaf)), *[(0, 0)] * (leaf.ndim - 1))) for leaf in leaves])

        return cast(tuple[Any, Any], jax.tree.map(stack, *parts))

    def _each(self, function: Any, axes: Sequence[str | None], donate: int | None = None) -> Any:
        """`function(experiment, *arguments)` for each member, compiled once.

        axes: "member" for arguments with a leading axis of members, None for those that all share.
        """

        def member(own: Any, *arguments: Any) -> Any:
            seed, values = own
            return function(
                _with_values(self.experiments[0], seed, dict(zip(self.traced, values, strict=True))), *arguments
            )

        def local(*arguments: Any) -> Any:  # the members of one device
            return jax.vmap(member, in_axes=(0, *(None if axis is None else 0 for axis in axes)))(*arguments)

        specs = tuple(PartitionSpec(axis) for axis in ("member", *axes))
        split = jax.shard_map(local, mesh=self.mesh, in_specs=specs, out_specs=PartitionSpec("member"), check_vma=False)
        return jax.jit(split, donate_argnums=() if donate is None else donate)

    def init(self, initial_params: Sequence[InitialParams] | None = None) -> State:
        """The members' states at step 0, with a leading axis; `initial_params` gives the parameters of each."""
        states = self._init(self._own)
        if initial_params is None:
            return states
        drawn = self.gather(states.params)
        params = [
            make(jax.tree.map(lambda leaf, m=m: leaf[m], drawn))
            for m, make in enumerate([*initial_params, *[initial_params[-1]] * (self.size - len(initial_params))])
        ]
        placed = mesh_lib.put(jax.tree.map(lambda *leaves: np.stack(leaves), *params), self._split)
        ema = None if states.ema is None else jax.tree.map(jnp.copy, placed)
        return dataclasses.replace(states, params=placed, ema=ema)

    def intervals(self, start_step: int, end: int | None = None) -> Iterator[tuple[int, int]]:
        """The steps from `start_step` to `end`, by default the last one, cut into dispatches."""
        return feed.intervals(start_step, self.steps if end is None else end, self.period, self.config.train.log_steps)

    def run(self, states: State, start: int, end: int) -> tuple[State, list[dict[str, float]]]:
        """Steps start..end-1: the states, and of each member the mean of each metric, or for LAST the last value.

        A member whose loss is not finite stops there: it is added to `failed`, and has no metrics.
        """
        over = self.length - (end - start)
        taken = [seen[own.rows(start, end)] for own, seen in zip(self.feeds, self.rows, strict=True)]
        taken += [taken[-1]] * (self.size - len(taken))
        rows = np.pad(np.stack(taken).astype(np.int32), ((0, 0), (over, 0), (0, 0)))
        resting = [m in self.failed or m >= len(self.experiments) for m in range(self.size)]
        skip = (np.arange(self.length) < over)[None] | np.array(resting)[:, None]
        rows, skip = mesh_lib.put((rows, skip), self._split)
        states, metrics = self._advance(self._own, states, rows, skip, self._train)
        metrics = self.gather(metrics)
        found: list[dict[str, float]] = []
        for m in range(len(self.experiments)):
            own = {name: np.ravel(value[m])[over - self.length :] for name, value in metrics.items()}
            finite, _ = own.pop("finite"), own.pop("intact")
            if own.pop("failed").any() and m not in self.failed:
                self.failed[m] = end - 1 if finite.all() else start + int(finite.argmin())
            lines = {n: float(v[-1] if n in LAST else v.mean(dtype=np.float64)) for n, v in own.items()}
            found.append({} if m in self.failed else lines)
        return states, found

    def evaluate(self, states: State, split: str) -> list[dict[str, float]]:
        """`Trainer.evaluate` of each member; {} for one that has failed."""
        sums: Any = None
        for rows, mask in self._batches(split):
            placed = mesh_lib.put((rows, mask), self._split)
            batch = self.gather(self._measure(self._own, states, self._held_out, *placed))
            batch = jax.tree.map(lambda a: np.asarray(a, np.float64), batch)
            sums = batch if sums is None else jax.tree.map(np.add, sums, batch)
        steps, found = self.gather(states.step), []
        for m, experiment in enumerate(self.experiments):
            own = jax.tree.map(lambda a, m=m: a[m], sums)
            try:
                n = getattr(self.specs[m], split)
                found.append({} if m in self.failed else summary(experiment, own, n, int(steps[m]), split))
            except NonFiniteError:
                self.failed[m] = int(steps[m])
                found.append({})
        return found

    def _batches(self, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows and masks [members, batch] that cover the split of each member."""
        parts = []
        for spec in [*self.specs, *[self.specs[-1]] * (self.size - len(self.specs))]:
            rows, mask = feed.batches(getattr(spec, split), self.eval_batch_size)
            parts.append((rows + np.int32(0 if split == "validation" else spec.validation), mask))
        for i in range(max(len(rows) for rows, _ in parts)):
            # A member with fewer batches repeats its last one, and counts none of it.
            yield (
                np.stack([rows[min(i, len(rows) - 1)] for rows, _ in parts]),
                np.stack([mask[i] if i < len(mask) else np.zeros_like(mask[0]) for _, mask in parts]),
            )

    def choose(self, which: np.ndarray, states: State, others: State) -> State:
        """The states of the members for which `which` is true, and for the others those of `others`."""
        which = np.pad(which, (0, self.size - len(which)))
        return self._choose(mesh_lib.put(which, self._split), states, others)

    def gather(self, tree: Any) -> Any:
        """Arrays with a leading axis of members as NumPy arrays."""
        return mesh_lib.gather(self.mesh, tree)

    def members(self, states: State) -> list[State]:
        """The state of each member, as NumPy arrays."""
        whole = self.gather(states)
        return [jax.tree.map(lambda leaf, m=m: leaf[m], whole) for m in range(len(self.experiments))]

    def place(self, states: Sequence[State]) -> State:
        """The inverse of `members`: the members' states with a leading axis, on the devices."""
        filled = [*states, *[states[-1]] * (self.size - len(states))]
        return cast(State, mesh_lib.put(jax.tree.map(lambda *leaves: np.stack(leaves), *filled), self._split))


def differing(configs: Sequence[Any]) -> tuple[str, ...]:
    """The TRACED numbers in which configs differ."""
    return tuple(n for n in TRACED if len({config_lib.get(config, n) for config in configs}) > 1)


def program(experiment: Experiment) -> str:
    """Text that is equal for the experiments of one program."""
    config, x = experiment.config, experiment.spec.x
    fields = {path: v for path, v in config_lib.identity(config).items() if path != "seed" and path[:5] != "data."}
    own = sorted((path, bool(value) if path in TRACED else value) for path, value in fields.items())
    return repr((own, config.data.binarize, experiment.steps, x.shape, x.kind, x.groups, experiment.spec.classes))


def _with_values(base: Experiment, seed: jax.Array, values: Mapping[str, jax.Array]) -> Experiment:
    """The experiment of a member inside its program, where its numbers are traced."""
    experiment = base
    if values:
        config = base.config.copy_and_resolve_references()
        with config.unlocked(), config.ignore_type():
            for path, value in values.items():
                config_lib.set_field(config, path, value)
        experiment = experiment_lib.build(config, base.spec)
    return dataclasses.replace(experiment, key=prng.key(seed))


def train(
    experiment: Experiment, data: Dataset, seeds: Sequence[int], rows: Sequence[np.ndarray]
) -> tuple[list[State], np.ndarray]:
    """The final state for each seed as NumPy arrays, and the loss [members, intervals].

    Member m sees the training rows `rows[m]` alone. The data must fit on one device. Raises NonFiniteError.
    """
    members = []
    for seed in seeds:
        config = experiment.config.copy_and_resolve_references()
        with config.unlocked():
            config.seed = seed
        members.append(dataclasses.replace(experiment, config=config, key=prng.key(seed)))
    group = Group(members, data, rows)
    states, losses = group.init(), []
    for start, end in group.intervals(0):
        states, metrics = group.run(states, start, end)
        if group.failed:
            member, step = next(iter(group.failed.items()))
            raise NonFiniteError(f"seed {seeds[member]}: not finite: loss in step {step}")
        losses.append([own["loss"] for own in metrics])
    return group.members(states), np.array(losses).T
