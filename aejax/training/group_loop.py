"""The loop over the steps of a group: metrics, evaluations, checkpoints, resumption."""

import contextlib
import functools
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aejax.data.dataset import Dataset
from aejax.errors import Stopped
from aejax.experiment import Experiment, State
from aejax.parallel import processes
from aejax.storage import config_json, run_dir
from aejax.storage import metrics as metrics_lib
from aejax.storage.checkpoint import Checkpoints
from aejax.training import bias, progress, stages
from aejax.training.loop import Progress
from aejax.training.members import Member
from aejax.training.population import Group, States
from aejax.training.trainer import InitialParams

Finish = Callable[[Experiment, Dataset, Path, State, dict[str, float]], Any]  # `run.finish`


class Planned(NamedTuple):
    """A member with what it is made of, and the steps at which its rungs end."""

    member: Member
    experiment: Experiment
    data: Dataset
    ends: Sequence[int]


class Leg(NamedTuple):
    """A group of members in one rung of a population."""

    rung: int
    number: int  # of the group in its rung
    title: str | None  # "rung 2 of 3, group 1 of 2"; None if there is but one leg
    planned: Sequence[Planned]

    @property
    def start(self) -> int:
        return self.planned[0].ends[self.rung - 1] if self.rung else 0

    @property
    def end(self) -> int:
        return self.planned[0].ends[self.rung]

    @property
    def last(self) -> bool:
        return self.rung == len(self.planned[0].ends) - 1


def folder(path: Path, number: int | str) -> Path:
    """The run directory of a member."""
    return path / run_dir.MEMBERS / str(number)


def ended(path: Path, member: Member) -> bool:
    """Whether a member has its results, or a file that says why it has none."""
    own = folder(path, member.number)
    return (own / run_dir.RESULTS).is_file() or (own / run_dir.ENDED).is_file()


def done(path: Path, leg: Leg) -> bool:
    """Whether all members of a leg are written."""

    def written(member: Member) -> bool:
        steps = (folder(path, member.number) / run_dir.CHECKPOINTS / "last").glob("*")
        reached = max((int(step.name) for step in steps if step.name.isdecimal()), default=-1)
        return ended(path, member) or (not leg.last and reached >= leg.end)

    return all(written(one.member) for one in leg.planned)


def score(path: Path, member: Member, step: int) -> float:
    """The validation loss of a member at a step, of a classifier the error; inf if its evaluation was not finite."""
    lines = {line["split"]: line for line in metrics_lib.read(folder(path, member.number)) if line["step"] == step}
    if "test" not in lines:  # which is evaluated after the validation split
        return np.inf
    return float(lines["validation"].get("error", lines["validation"]["loss"]))


def train(path: Path, leg: Leg, stop: Callable[[], bool], finish: Finish) -> None:
    """Train a group to the end of its rung, from its newest checkpoint if there is one, and write its members.

    In a later rung it starts from the checkpoints of its members. `finish` writes the results of those at the end.
    """
    members, experiments, held, _ = zip(*leg.planned, strict=True)
    config, group = members[0].config, Group(experiments, held)
    has_validation = bool(held[0].spec.validation)
    checkpoints = path / run_dir.CHECKPOINTS / f"rung_{leg.rung}_group_{leg.number}"
    for member in members:
        folder(path, member.number).mkdir(parents=True, exist_ok=True)  # each process opens its metrics there
    with contextlib.ExitStack() as stack:
        last = stack.enter_context(Checkpoints(checkpoints, config.checkpoint.max_to_keep))
        saved_step = processes.share(last.latest())
        step, seconds = leg.start if saved_step is None else saved_step, np.zeros(len(members))
        best = np.full(len(members), np.inf)
        best_states: Any = None  # by validation loss
        if saved_step is not None:
            like = {"states": group.abstract, "best": group.abstract if has_validation else None}
            restored, meta = last.restore(step, like)
            states, best_states = restored["states"], restored["best"]
            seconds, best = np.array(meta["seconds"]), np.array([np.inf if v is None else v for v in meta["best"]])
            group.failed = {int(m): s for m, s in meta["failed"].items()}
        elif leg.rung:
            states, kept = _restored(path, leg, group, "last")
            seconds, best = np.array([one.seconds for one in kept]), np.array([one.best for one in kept])
            if has_validation:
                best_states, _ = _restored(path, leg, group, "best")
        else:
            states = group.init(_starts(leg.planned))
            if has_validation:
                best_states = jax.tree.map(jnp.copy, states)  # steps reuse the memory of the states
        writers = [
            stack.enter_context(contextlib.closing(metrics_lib.Writer(folder(path, member.number), step, board=False)))
            for member in members
        ]
        shown = config.train.progress and processes.first()
        bar = stack.enter_context(
            progress.bar(leg.end, "step", shown, initial=step, desc=leg.title, postfix="compiles")
        )
        clock = time.perf_counter()
        for start, end in group.intervals(step, leg.end):
            before, failed = time.perf_counter(), set(group.failed)
            states, lines = group.run(states, start, end)
            rate = (end - start) * config.train.batch_size * len(members) / (time.perf_counter() - before)
            _write(writers, group, end, "train", [line and line | {"examples_per_second": rate} for line in lines])
            if end % group.period == 0 or end == group.steps:
                for split in ("validation", "test") if has_validation else ("test",):
                    lines_ = group.evaluate(states, split)
                    _write(writers, group, end, split, lines_)
                    if split == "validation":
                        scores = np.array([line.get("error", line.get("loss", np.inf)) for line in lines_])
                        best_states = group.choose(scores < best, states, best_states)
                        best = np.minimum(best, scores)
            for m in set(group.failed) - failed:
                print(f"{members[m]}: not finite: loss in step {group.failed[m]}; the others go on", flush=True)
            losses = [line["loss"] for line in lines if line]
            bar.update(end - start)
            bar.set_postfix_str(
                f"mean loss {np.mean(losses) if losses else np.nan:.4g}, {rate:.3g} examples/s", refresh=False
            )
            stopped, over = stop(), end == leg.end or not losses
            if over or stopped or end // config.checkpoint.every_steps != start // config.checkpoint.every_steps:
                now = time.perf_counter()
                seconds, clock = seconds + (now - clock) / len(members), now
                meta = {
                    "seconds": seconds.tolist(),
                    "failed": group.failed,
                    "best": [v if np.isfinite(v) else None for v in best],
                }
                last.save(end, {"states": states, "best": best_states}, meta)
            if over:
                break
            if stopped:
                of = f"{leg.end} of {leg.title}" if leg.title else leg.end
                raise Stopped(f"stopped at step {end} of {of}; the same command resumes from there")
        last.wait()
    _keep(path, leg, group, states, best_states, Progresses(seconds, best), finish)
    processes.any_of(False)  # all wait until the members are written
    if processes.first():
        shutil.rmtree(checkpoints, ignore_errors=True)


class Progresses(NamedTuple):
    """Of each member: its seconds of training, and its smallest validation loss (of a classifier the error)."""

    seconds: np.ndarray
    best: np.ndarray

    def of(self, m: int) -> dict[str, Any]:
        return vars(Progress(seconds=float(self.seconds[m]), best=float(self.best[m])))


def _restored(path: Path, leg: Leg, group: Group, name: str) -> tuple[States, list[Progress]]:
    """The states of the members' checkpoints of this name, on the devices of a group, and their progress."""
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    states, found = [], []
    for one in leg.planned:
        like = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), jax.eval_shape(one.experiment.init)
        )
        with Checkpoints(folder(path, one.member.number) / run_dir.CHECKPOINTS / name, read_only=True) as checkpoints:
            step = checkpoints.latest() if name == "best" else leg.start
            state, meta = checkpoints.restore(step or 0, like)
        states.append(jax.tree.map(np.asarray, state))
        found.append(Progress(**meta))
    return group.place(states), found


def _starts(planned: Sequence[Planned]) -> list[InitialParams] | None:
    """What gives each member its parameters at the start; None: they are drawn at random."""
    experiments = [one.experiment for one in planned]
    config = experiments[0].config
    if config.init_from:
        origin = stages.origin(experiments[0])
        graft = functools.partial(
            stages.initial_params,
            stages=stages.Stages([], {}, 0, 0.0),
            origin=origin,
            classifier=experiments[0].pair.supervised,
        )
        return [graft] * len(experiments)
    if config.model.decoder.bias_init == "data_mean":
        return [functools.partial(bias.data_mean, experiment=one.experiment, data=one.data) for one in planned]
    return None


def _write(
    writers: Sequence[metrics_lib.Writer], group: Group, step: int, split: str, lines: Sequence[Mapping[str, float]]
) -> None:
    for m, (writer, line) in enumerate(zip(writers, lines, strict=True)):
        if line:
            writer.write(step, step / group.feeds[m].steps_per_epoch, split, line)


def _keep(
    path: Path, leg: Leg, group: Group, states: States, best: States | None, progresses: Progresses, finish: Finish
) -> None:
    """Write the members at the end of a leg. The file that `done` looks for comes last."""
    splits = ("test", "validation") if best is not None else ("test",)
    found = {split: group.evaluate(states, split) for split in splits} if leg.last else {}
    finals, bests = group.members(states), None if best is None else group.members(best)
    environment = json.dumps(run_dir.environment(), indent=2) + "\n"
    for m in processes.share([m for m, one in enumerate(leg.planned) if not ended(path, one.member)]):
        member, experiment, data, _ = leg.planned[m]
        own, progress = folder(path, member.number), progresses.of(m)
        run_dir.write(own / run_dir.DATA, data.spec.to_json())
        run_dir.write(own / run_dir.CONFIG, config_json.to_json(member.config))
        run_dir.write(own / run_dir.ENVIRONMENT, environment)
        if m in group.failed:
            run_dir.write(own / run_dir.ENDED, f"not finite: loss in step {group.failed[m]}\n")
            continue
        if bests is not None:
            _save(own / run_dir.CHECKPOINTS / "best", bests[m], progress)
        _save(own / run_dir.CHECKPOINTS / "last", finals[m], progress)
        if leg.last:
            results = {f"{split}/{name}": value for split, values in found.items() for name, value in values[m].items()}
            results |= {"epochs": int(finals[m].step) / experiment.steps_per_epoch, "seconds": progress["seconds"]}
            finish(experiment, data, own, finals[m], results)


def _save(path: Path, state: State, progress: Mapping[str, Any]) -> None:
    """The checkpoint of a member."""
    with Checkpoints(path) as checkpoints:
        checkpoints.save(int(state.step), state, dict(progress))
