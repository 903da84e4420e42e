"""A run of many models: the members of a population, trained group by group, each kept as a run of its own."""

import contextlib
import functools
import io
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from aejax import experiment as experiment_lib
from aejax import run as run_lib
from aejax.data import sources
from aejax.data.dataset import Dataset
from aejax.data.lazy import Lazy
from aejax.errors import FieldError, InputError, NonFiniteError, Stopped, raise_all
from aejax.experiment import Experiment, State
from aejax.page import comparison
from aejax.page import results as results_lib
from aejax.parallel import processes
from aejax.storage import config_json, run_dir, saved
from aejax.storage import metrics as metrics_lib
from aejax.storage.checkpoint import Checkpoints
from aejax.training import bias, memory, plan, progress, resumption, stages
from aejax.training import members as members_lib
from aejax.training.loop import Progress
from aejax.training.members import Member
from aejax.training.population import Group, program
from aejax.training.trainer import InitialParams
from aejax.uses import USES, runner
from aejax.uses.data import Data

FAILED = "failed.txt"  # in the folder of a member that has no results


class Planned(NamedTuple):
    """A member with what it is made of."""

    member: Member
    experiment: Experiment
    data: Dataset


def run(config: ConfigDict, workdir: str | Path | None = None, data: Dataset | None = None) -> dict[str, float]:
    """Train the members of `config.population` in `workdir`, or resume there; returns the results.

    `members/N/` is the run directory of member N, which every command reads. results.json: the mean over the members
    that finished, METRIC_std (sample standard deviation, n - 1), `members` and, with a validation split,
    `best_member`. members.parquet has a row for each member. A member whose loss is not finite stops alone; its folder
    has failed.txt. Raises what `run.run` raises; NonFiniteError only if no member is left.
    """
    with processes.agreed():
        config = plan.resolve(config)
        raise_all(members_lib.check(config))
        if jax.process_count() > 1:
            raise InputError(
                "a population takes one process: start it without --distributed, on all devices of a machine"
            )
        with progress.said(f"reading {config.data.source}", processes.first()):
            data = data or sources.load(config)
        planned = _planned(config, data)
        programs = [program(one.experiment) for one in planned]
        most = config.population.chunk or memory.members(planned[0].experiment, [one.data for one in planned])
        groups = [[planned[n] for n in group] for group in members_lib.groups(programs, most)]
    if not processes.same(data.spec.digest):
        raise FieldError("data.source", config.data.source, "must hold the same data for all processes")
    path = run_lib.directory(config, workdir)
    with contextlib.ExitStack() as stack:
        with processes.agreed():
            if processes.first():
                stack.enter_context(resumption.opened(path, config, data.spec))
                finished = (path / run_dir.RESULTS).is_file()
                sizes = " + ".join(str(len(group)) for group in groups)
                print(f"data: {data.describe()}")
                print(f"population: {len(planned)} members in {len(groups)} program{'s' * (len(groups) > 1)}: {sizes}")
                print(f"run directory: {path}{' (finished: these are its results)' if finished else ''}", flush=True)
            results = run_dir.read_results(path) if processes.first() else None
        stop = stack.enter_context(run_lib.stopped())
        results = processes.share(results)
        if results is None:
            for k, group in enumerate(groups):
                if processes.share(any(not _ended(path, one.member) for one in group)):
                    _train(path, k, len(groups), group, stop)
            results = processes.share(_finish(path, config, planned) if processes.first() else None)
    return cast(dict[str, float], results)


def _planned(config: ConfigDict, data: Dataset) -> list[Planned]:
    """The members of a population on its data; raises InputError."""
    usual, held, planned = repr(config.data), dict[str, Dataset](), []
    for member in members_lib.members(config, data.spec.classes):
        own = repr(member.config.data)
        if own not in held:
            held[own] = data if own == usual else sources.load(member.config)
        if isinstance(held[own].train["x"], Lazy):
            allowed = "must not be false in a population, whose data lie on the devices"
            raise FieldError("data.resident", config.data.resident, allowed)
        try:
            raise_all(experiment_lib.check(member.config, held[own].spec))
        except InputError as error:
            raise InputError(f"population: {member}: {error}") from error
        planned.append(Planned(member, experiment_lib.build(member.config, held[own].spec), held[own]))
    return planned


def folder(path: Path, number: int | str) -> Path:
    """The run directory of a member."""
    return path / run_dir.MEMBERS / str(number)


def _ended(path: Path, member: Member) -> bool:
    own = folder(path, member.number)
    return (own / run_dir.RESULTS).is_file() or (own / FAILED).is_file()


def _train(path: Path, k: int, count: int, planned: Sequence[Planned], stop: Callable[[], bool]) -> None:
    """Train a group to the end, from its newest checkpoint if there is one, and write its members."""
    members, experiments, held = zip(*planned, strict=True)
    config, group = members[0].config, Group(experiments, held)
    has_validation = bool(held[0].spec.validation)
    checkpoints = path / run_dir.CHECKPOINTS / f"group_{k}"
    for member in members:
        folder(path, member.number).mkdir(parents=True, exist_ok=True)  # each process opens its metrics there
    with contextlib.ExitStack() as stack:
        last = stack.enter_context(Checkpoints(checkpoints, config.checkpoint.max_to_keep))
        saved_step = processes.share(last.latest())
        step, seconds, best = saved_step or 0, 0.0, np.full(len(members), np.inf)
        best_states: Any = None  # by validation loss
        if saved_step is None:
            states = group.init(_starts(planned))
            if has_validation:
                best_states = jax.tree.map(jnp.copy, states)  # steps reuse the memory of the states
        else:
            like = {"states": group.abstract, "best": group.abstract if has_validation else None}
            restored, meta = last.restore(step, like)
            states, best_states = restored["states"], restored["best"]
            seconds, best = meta["seconds"], np.array([np.inf if v is None else v for v in meta["best"]])
            group.failed = {int(m): s for m, s in meta["failed"].items()}
        writers = [
            stack.enter_context(contextlib.closing(metrics_lib.Writer(folder(path, member.number), step, board=False)))
            for member in members
        ]
        title = f"group {k + 1} of {count}" if count > 1 else None
        shown = config.train.progress and processes.first()
        bar = stack.enter_context(
            progress.bar(group.steps, "step", shown, initial=step, desc=title, postfix="compiles")
        )
        clock = time.perf_counter()
        for start, end in group.intervals(step):
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
            stopped, over = stop(), end == group.steps or not losses
            if over or stopped or end // config.checkpoint.every_steps != start // config.checkpoint.every_steps:
                seconds, clock = seconds + time.perf_counter() - clock, time.perf_counter()
                meta = {
                    "seconds": seconds,
                    "failed": group.failed,
                    "best": [v if np.isfinite(v) else None for v in best],
                }
                last.save(end, {"states": states, "best": best_states}, meta)
            if over:
                break
            if stopped:
                of = f"{group.steps} of {title}" if title else group.steps
                raise Stopped(f"stopped at step {end} of {of}; the same command resumes from there")
        last.wait()
    found = {split: group.evaluate(states, split) for split in ("test", "validation")[: 1 + has_validation]}
    apart = group.members(states), group.members(best_states) if has_validation else None
    for m in processes.share([m for m, member in enumerate(members) if not _ended(path, member)]):
        own = folder(path, members[m].number)
        run_dir.write(own / run_dir.DATA, held[m].spec.to_json())
        run_dir.write(own / run_dir.CONFIG, config_json.to_json(members[m].config))
        run_dir.write(own / run_dir.ENVIRONMENT, json.dumps(run_dir.environment(), indent=2) + "\n")
        if m in group.failed:
            run_dir.write(own / FAILED, f"not finite: loss in step {group.failed[m]}\n")
            continue
        _keep(own / run_dir.CHECKPOINTS / "last", apart[0][m], seconds / len(members), best[m])
        if apart[1]:
            _keep(own / run_dir.CHECKPOINTS / "best", apart[1][m], seconds / len(members), best[m])
        results = {f"{split}/{name}": value for split, values in found.items() for name, value in values[m].items()}
        results |= {"epochs": int(apart[0][m].step) / group.feeds[m].steps_per_epoch, "seconds": seconds / len(members)}
        run_lib.finish(experiments[m], held[m], own, apart[0][m], results)
    processes.any_of(False)  # all wait until the members are written
    if processes.first():
        shutil.rmtree(checkpoints, ignore_errors=True)


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


def _keep(path: Path, state: State, seconds: float, best: float) -> None:
    """The checkpoint of a member."""
    with Checkpoints(path) as checkpoints:
        checkpoints.save(int(state.step), state, vars(Progress(seconds=seconds, best=float(best))))


def _finish(path: Path, config: ConfigDict, planned: Sequence[Planned]) -> dict[str, float]:
    """Results, table, figure and page of a population whose members have ended; in the first process."""
    members = [one.member for one in planned]
    found = {m.number: run_dir.read_results(folder(path, m.number)) or {} for m in members}
    if not any(found.values()):
        steps = f"{path / run_dir.MEMBERS}/N/{FAILED} name the steps"
        raise NonFiniteError(f"{path}: the loss of no member is finite; {steps}")
    results = _summary(list(found.values()))
    if any("validation/loss" in own for own in found.values()):
        score = {n: own.get("validation/error", own.get("validation/loss", np.inf)) for n, own in found.items()}
        results["best_member"] = min(score, key=lambda n: score[n])
    results |= _ensembles(path, config, [one for one in planned if found[one.member.number]])
    run_dir.write(path / run_dir.TABLE, _table(path, members, found))
    run_dir.write_results(path, results)
    if config.figures.enabled:
        _draw(path)
    return results


def _ensembles(path: Path, config: ConfigDict, planned: Sequence[Planned]) -> dict[str, float]:
    """The numbers of the seeds of a setting together, USE/ensemble/METRIC: of uses that take several models, and the
    error of a classifier by the mean of the probabilities. Of several settings they are the mean."""
    names = [name for name in config.uses.run if USES[name].ensemble]
    settings: dict[str, list[Planned]] = {}
    for one in planned:
        settings.setdefault(repr(one.member.values), []).append(one)
    found: list[dict[str, float]] = []
    for i, own in enumerate(settings.values()):
        models = [saved.load(folder(path, one.member.number)) for one in own]
        if len(models) < 2:
            continue
        kept, data = path if len(settings) == 1 else path / "settings" / str(i), own[0].data
        found.append(runner.run(models, Data(models[0].experiment, data), names, kept, config.uses))
        if models[0].objective.pair.supervised:
            known = data.test["y"] >= 0
            mean = np.mean([model.map(model.pure_reconstruct, data.test["x"]) for model in models], axis=0)
            found[-1]["test/ensemble/error"] = float(100 * (mean.argmax(1) != data.test["y"])[known].mean())
    names = list(dict.fromkeys(name for numbers in found for name in numbers))
    return {name: float(np.mean([numbers[name] for numbers in found if name in numbers])) for name in names}


def _summary(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean and sample standard deviation of every number over the members that have it."""
    names = dict.fromkeys(name for own in found for name in own)
    results: dict[str, float] = {"members": sum(bool(own) for own in found)}
    for name in names:
        values = [own[name] for own in found if name in own]
        results[name] = float(np.mean(values))
        if len(values) > 1:
            results[f"{name}_std"] = float(np.std(values, ddof=1))
    return results


def _table(path: Path, members: Sequence[Member], found: Mapping[int, Mapping[str, float]]) -> bytes:
    """members.parquet: member, seed, the swept fields, failed (why a member has no results) and its results."""
    import pandas as pd

    rows = []
    for member in members:
        own, why = found[member.number], folder(path, member.number) / FAILED
        values = {field: str(v) if isinstance(v, tuple) else v for field, v in member.values.items()}
        failed = why.read_text().strip() if why.is_file() else None
        rows.append({"member": member.number, "seed": member.seed, **values, "failed": failed, **own})
    buffer = io.BytesIO()
    pd.DataFrame(rows).to_parquet(buffer, index=False)
    return buffer.getvalue()


def settings(path: Path) -> list[comparison.Group]:
    """The members that have ended, grouped by setting."""
    runs = sorted((int(own.name), own) for own in (path / run_dir.MEMBERS).iterdir())
    return comparison.grouped(comparison.read([own for _, own in runs], allow_different_data=True))


def table(path: Path, width: int) -> str:
    """The results of a finished population for a terminal, and of several settings the headline results of each."""
    found, groups = run_dir.read_results(path) or {}, settings(path)
    text = results_lib.table(found, results_lib.likelihood(run_dir.read(path)[0]))
    if len(groups) < 2:
        return text
    return f"{text}\n\n{comparison.table(groups, width, results_lib.headline(found))}"


def _draw(path: Path) -> None:
    """The figure and the page; what fails is left out with a line."""
    from aejax.page import comparison_figure, figures, report

    try:
        with progress.said("figures and page"):
            groups = settings(path)
            name = results_lib.headline(run_dir.read_results(path) or {})[0]
            field = comparison_figure.against(groups, None)
            figures.save(
                "population",
                lambda: comparison_figure.figure(groups, name, field, stacked=True),
                path / run_dir.FIGURES,
            )
            report.write(path)
    except Exception as error:  # a page never costs the results
        print(f"page: left out: {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
