"""Members of a population: experiments of one program, trained in one compiled step."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
from aejax.training import members, memory
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

# Parameters of a member up to which a CPU trains its members in one batched step. Above it they are trained in turn,
# each for the steps of a dispatch, so that the state of one lies in the cache.
BATCHED = 2**16
# Parameters up to which one dispatch trains all members in turn. Above it a dispatch trains one for each device: a loop
# over members would copy their states.
LOOPED = 2**18

States = list[State]  # of a group, by round, each with a leading axis of members


class Group:
    """Experiments that differ only in their seed and in TRACED numbers: every step trains all of them.

    Each member has the parameters, the order of examples and the draws of a run of its own; its numbers are those of
    that run up to rounding. data: that of each member; every device holds each dataset once. rows, held: the rows of
    the training and the validation split that each member sees, by default all. The members are split over the axis
    "member" of the mesh; if it does not divide them, copies of the last one fill up and are never trained. A round
    holds the members of one dispatch: all, or one for each device.
    """

    def __init__(
        self,
        experiments: Sequence[Experiment],
        data: Sequence[Dataset],
        rows: Sequence[np.ndarray] | None = None,
        held: Sequence[np.ndarray] | None = None,
    ):
        first = experiments[0]
        self.experiments, self.config, self.steps = experiments, first.config, first.steps
        train = self.config.train
        rows = rows or [np.arange(one.spec.train) for one in data]
        self.feeds = [
            feed.Feed(own.config.seed, len(seen), train.batch_size) for own, seen in zip(experiments, rows, strict=True)
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
        parameters = sum(a.size for a in jax.tree.leaves(jax.eval_shape(first.init).params))
        cpu = jax.default_backend() == "cpu"
        self._in_turn = cpu and parameters > BATCHED
        self._round = devices if cpu and parameters > LOOPED else self.size  # members of a dispatch
        self._own = self._rounds((seeds, values))
        self.put(data, rows, held)

        self._init = self._each(lambda experiment, data, state: experiment.init())
        shapes = [jax.eval_shape(self._init, own, None, None) for own in self._own]
        self.abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=self._split), shapes)
        self._advance = self._each(self._steps, donate=True)
        self._measure = self._each(
            lambda experiment, data, state, rows, mask, first: step_lib.eval_step(
                state, data, rows, mask, experiment=experiment, first=first
            )
        )
        self._join = jax.jit(
            lambda rounds: jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *rounds), out_shardings=self._whole
        )
        self._choose = jax.jit(
            lambda which, a, b: jax.tree.map(
                lambda x, y: jnp.where(which.reshape(-1, *[1] * (x.ndim - 1)), x, y), a, b
            ),
            out_shardings=self._split,
        )

    def put(
        self, data: Sequence[Dataset], rows: Sequence[np.ndarray], held: Sequence[np.ndarray] | None = None
    ) -> None:
        """Train and evaluate on these data and rows from now on; they must have the shapes of the first."""
        distinct = list({id(one): one for one in data}.values())
        key = self.experiments[0].evaluation_key
        held_out = [flat(splits.held_out(self.config, key, one)) for one in distinct]
        # One array of all datasets, and each member's rows of it.
        self._train = _joined(self._whole, [flat(one.train) for one in distinct])
        self._held_out = _joined(self._whole, held_out)
        at = [next(i for i, other in enumerate(distinct) if other is one) for one in data]
        begins, held_begins = (
            np.cumsum([0, *(part["x"].shape[0] for part in parts)]) for parts in ([d.train for d in distinct], held_out)
        )
        validation = held or [np.arange(one.spec.validation) for one in data]
        self._rows = [seen + begins[i] for seen, i in zip(rows, at, strict=True)]
        self._held = {
            "validation": [seen + held_begins[i] for seen, i in zip(validation, at, strict=True)],
            "test": [
                np.arange(one.spec.test) + held_begins[i] + one.spec.validation for one, i in zip(data, at, strict=True)
            ],
        }
        largest = max(len(seen) for seen in (*self._held["validation"], *self._held["test"]))
        self.eval_batch_size = min(self.config.train.eval_batch_size, largest)

    def _rounds(self, tree: Any) -> list[Any]:
        """Arrays with a leading axis of all members, on the devices, by round."""
        begins = range(0, self.size, self._round)
        parts = [jax.tree.map(lambda leaf, i=i: leaf[i : i + self._round], tree) for i in begins]
        return [mesh_lib.put(part, self._split) for part in parts]

    def _each(self, function: Any, *, donate: bool = False) -> Any:
        """`function(experiment, data, state, *arguments)` for each member of a round, compiled once, as a function of
        (own, states, data, *arguments): all but `data` have a leading axis of members."""

        def member(data: Any, arguments: Any) -> Any:
            (seed, values), *rest = arguments
            traced = dict(zip(self.traced, values, strict=True))
            return function(_with_values(self.experiments[0], seed, traced), data, *rest)

        def local(data: Any, arguments: Any) -> Any:  # the members of one device
            one = functools.partial(member, data)
            return jax.lax.map(one, arguments) if self._in_turn else jax.vmap(one)(arguments)

        whole, split = PartitionSpec(), PartitionSpec("member")
        over = jax.shard_map(local, mesh=self.mesh, in_specs=(whole, split), out_specs=split, check_vma=False)
        return jax.jit(
            lambda own, states, data, *arguments: over(data, (own, states, *arguments)),
            donate_argnums=1 if donate else (),
        )

    def _steps(self, experiment: Experiment, data: Any, state: State, rows: jax.Array, skip: jax.Array) -> Any:
        """`train_steps` of a member; one that rests takes no time if they are trained in turn."""

        def steps(state: State) -> Any:
            return step_lib.train_steps(state, data, rows, skip, experiment=experiment)

        def rest(state: State) -> Any:
            return state, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(steps, state)[1])

        return jax.lax.cond(skip.all(), rest, steps, state) if self._in_turn else steps(state)

    def init(self, initial_params: Sequence[InitialParams] | None = None) -> States:
        """The members' states at step 0; `initial_params` gives the parameters of each."""
        states = [self._init(own, None, None) for own in self._own]
        if initial_params is None:
            return states
        drawn = self.members(states)
        started = [
            dataclasses.replace(state, params=make(state.params))
            for make, state in zip(initial_params, drawn, strict=True)
        ]
        return self.place(
            [state if state.ema is None else dataclasses.replace(state, ema=state.params) for state in started]
        )

    def intervals(self, start_step: int, end: int | None = None) -> Iterator[tuple[int, int]]:
        """The steps from `start_step` to `end`, by default the last one, cut into dispatches."""
        return feed.intervals(start_step, self.steps if end is None else end, self.period, self.config.train.log_steps)

    def run(self, states: States, start: int, end: int) -> tuple[States, list[dict[str, float]]]:
        """Steps start..end-1: the states, and of each member the mean of each metric, or for LAST the last value.

        A member whose loss is not finite stops there: it is added to `failed`, and has no metrics.
        """
        over = self.length - (end - start)
        taken = [seen[own.rows(start, end)] for own, seen in zip(self.feeds, self._rows, strict=True)]
        taken += [taken[-1]] * (self.size - len(taken))
        rows = np.pad(np.stack(taken).astype(np.int32), ((0, 0), (over, 0), (0, 0)))
        resting = [m in self.failed or m >= len(self.experiments) for m in range(self.size)]
        skip = (np.arange(self.length) < over)[None] | np.array(resting)[:, None]
        given = zip(self._own, states, self._rounds((rows, skip)), strict=True)
        after = [self._advance(own, state, self._train, *arguments) for own, state, arguments in given]
        metrics = self.gather([one for _, one in after])
        found: list[dict[str, float]] = []
        for m in range(len(self.experiments)):
            own = {name: np.ravel(value[m])[over - self.length :] for name, value in metrics.items()}
            finite, _ = own.pop("finite"), own.pop("intact")
            if own.pop("failed").any() and m not in self.failed:
                self.failed[m] = end - 1 if finite.all() else start + int(finite.argmin())
            lines = {n: float(v[-1] if n in LAST else v.mean(dtype=np.float64)) for n, v in own.items()}
            found.append({} if m in self.failed else lines)
        return [state for state, _ in after], found

    def evaluate(self, states: States, split: str) -> list[dict[str, float]]:
        """`Trainer.evaluate` of each member; {} for one that has failed."""
        sums: Any = None
        for batch in self._batches(split):
            given = zip(self._own, states, batch, strict=True)
            measured = self.gather([self._measure(own, state, self._held_out, *part) for own, state, part in given])
            measured = jax.tree.map(lambda a: np.asarray(a, np.float64), measured)
            sums = measured if sums is None else jax.tree.map(np.add, sums, measured)
        steps, found = self.gather([state.step for state in states]), []
        for m, experiment in enumerate(self.experiments):
            own, n = jax.tree.map(lambda a, m=m: a[m], sums), len(self._held[split][m])
            try:
                found.append({} if m in self.failed else summary(experiment, own, n, int(steps[m]), split))
            except NonFiniteError:
                self.failed[m] = int(steps[m])
                found.append({})
        return found

    def _batches(self, split: str) -> Iterator[list[Any]]:
        """By round, rows and masks [members, batch] that cover the split of each member, and the first row's place."""
        parts = []
        for seen in [*self._held[split], *self._held[split][-1:] * (self.size - len(self.experiments))]:
            rows, mask = feed.batches(len(seen), self.eval_batch_size)
            parts.append((seen[rows].astype(np.int32), mask, rows[:, 0]))
        before = [own.spec.validation if split == "test" else 0 for own in self.experiments]
        before += before[-1:] * (self.size - len(before))
        for i in range(max(len(rows) for rows, _, _ in parts)):
            # A member with fewer batches repeats its last one, and counts none of it.
            rows = np.stack([rows[min(i, len(rows) - 1)] for rows, _, _ in parts])
            mask = np.stack([mask[i] if i < len(mask) else np.zeros_like(mask[0]) for _, mask, _ in parts])
            first = np.stack(
                [first[min(i, len(first) - 1)] + n for (_, _, first), n in zip(parts, before, strict=True)]
            )
            yield self._rounds((rows, mask, first))

    def choose(self, which: np.ndarray, states: States, others: States) -> States:
        """The states of the members for which `which` is true, and for the others those of `others`."""
        rounds = self._rounds(np.pad(which, (0, self.size - len(which))))
        return [self._choose(*given) for given in zip(rounds, states, others, strict=True)]

    def gather(self, rounds: list[Any]) -> Any:
        """Arrays of all rounds as NumPy arrays with a leading axis of all members."""
        return jax.tree.map(np.asarray, self._join(rounds))

    def members(self, states: States) -> list[State]:
        """The state of each member, as NumPy arrays."""
        whole = self.gather(states)
        return [jax.tree.map(lambda leaf, m=m: leaf[m], whole) for m in range(len(self.experiments))]

    def place(self, states: Sequence[State]) -> States:
        """The inverse of `members`: the states on the devices."""
        filled = [*states, *[states[-1]] * (self.size - len(states))]
        return self._rounds(jax.tree.map(lambda *leaves: np.stack(leaves), *filled))


def differing(configs: Sequence[Any]) -> tuple[str, ...]:
    """The TRACED numbers in which configs differ."""
    return tuple(n for n in TRACED if len({config_lib.get(config, n) for config in configs}) > 1)


def program(experiment: Experiment) -> str:
    """Text that is equal for the experiments of one program."""
    config, x = experiment.config, experiment.spec.x
    fields = {path: v for path, v in config_lib.identity(config).items() if path != "seed" and path[:5] != "data."}
    own = sorted((path, bool(value) if path in TRACED else value) for path, value in fields.items())
    return repr(
        (own, config.data.binarize, experiment.steps, x.shape, x.dtype, x.kind, x.groups, experiment.spec.classes)
    )


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


def with_seed(experiment: Experiment, seed: int) -> Experiment:
    """The experiment with another seed."""
    config = experiment.config.copy_and_resolve_references()
    with config.unlocked():
        config.seed = seed
    return dataclasses.replace(experiment, config=config.lock(), key=prng.key(seed))


def train(
    experiments: Sequence[Experiment], data: Sequence[Dataset], rows: Sequence[np.ndarray]
) -> tuple[list[State], list[np.ndarray]]:
    """The final state of each experiment as NumPy arrays, and its loss [intervals]; those of one program together.

    Experiment m sees the training rows `rows[m]` of `data[m]` alone. Raises NonFiniteError.
    """
    found: dict[int, tuple[State, np.ndarray]] = {}
    most = memory.members(experiments[0], data)
    for own in members.groups([program(one) for one in experiments], most):
        group = Group([experiments[m] for m in own], [data[m] for m in own], [rows[m] for m in own])
        states, losses = group.init(), []
        for start, end in group.intervals(0):
            states, metrics = group.run(states, start, end)
            if group.failed:
                member, step = next(iter(group.failed.items()))
                raise NonFiniteError(f"seed {experiments[own[member]].config.seed}: not finite: loss in step {step}")
            losses.append([line["loss"] for line in metrics])
        found |= dict(zip(own, zip(group.members(states), np.array(losses).T, strict=True), strict=True))
    return [found[m][0] for m in range(len(found))], [found[m][1] for m in range(len(found))]


def _joined(sharding: Any, parts: Sequence[Any]) -> Any:
    """Splits one after another, on the devices."""
    return mesh_lib.put(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts), sharding)
