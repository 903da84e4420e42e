"""A run of many models: the members of a population, trained group by group, each kept as a run of its own."""

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from ml_collections import ConfigDict

from aejax import experiment as experiment_lib
from aejax import run as run_lib
from aejax.data import feed, output, sources
from aejax.data.dataset import Dataset
from aejax.data.lazy import Lazy
from aejax.errors import FieldError, InputError, NonFiniteError, raise_all
from aejax.experiment import Experiment
from aejax.page import comparison
from aejax.page import results as results_lib
from aejax.page import search as search_page
from aejax.parallel import processes
from aejax.storage import metrics as metrics_lib
from aejax.storage import run_dir, saved
from aejax.training import group_loop, memory, plan, progress, resumption, search
from aejax.training import members as members_lib
from aejax.training.group_loop import Leg, Planned, folder
from aejax.training.members import Member
from aejax.training.population import program
from aejax.uses import USES, runner
from aejax.uses.data import Data

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run(config: ConfigDict, workdir: str | Path | None = None, data: Dataset | None = None) -> dict[str, float]:
    """Train the members of `config.population` in `workdir`, or resume there; returns the results.

    `members/N/` is the run directory of member N, which every command reads. results.json: the mean over the members
    that finished, METRIC_std (sample standard deviation, n - 1), `members` and, with a validation split,
    `best_member`; of a search they are those of the best setting. members.parquet has a row for each member. A member
    whose loss is not finite stops alone, and a search stops the worse settings early; their folders have ended.txt.
    Raises what `run.run` raises; NonFiniteError only if no member is left.
    """
    with processes.agreed():
        config = plan.resolve(config)
        raise_all(members_lib.check(config))
        with progress.said(f"reading {config.data.source}", processes.first()):
            data = data or sources.load(config)
        planned = _planned(config, data)
        most = config.population.chunk or memory.members(planned[0].experiment, [one.data for one in planned])
    if not processes.same(data.spec.digest):
        raise FieldError("data.source", config.data.source, "must hold the same data for all processes")
    path = run_lib.directory(config, workdir)
    with contextlib.ExitStack() as stack:
        with processes.agreed():
            if processes.first():
                stack.enter_context(resumption.opened(path, config, data.spec))
                finished = (path / run_dir.RESULTS).is_file()
                print(f"data: {data.describe()}")
                print(_describe(config, planned, most))
                print(f"run directory: {path}{' (finished: these are its results)' if finished else ''}", flush=True)
            results = run_dir.read_results(path) if processes.first() else None
        stop = stack.enter_context(run_lib.stopped())
        results = processes.share(results)
        if results is None:
            _rungs(path, config, planned, most, stop)
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
        if config.population.search and not held[own].spec.validation:
            allowed = (
                "must be greater than 0 in a search, which chooses by validation: --config.data.validation_fraction=0.1"
            )
            raise FieldError("data.validation_fraction", member.config.data.validation_fraction, allowed)
        planned.append((member, experiment_lib.build(member.config, held[own].spec), held[own]))
    lengths = [_lengths(experiment) for _, experiment, _ in planned]
    count, halving = config.population.search, config.population.halving
    rungs = len(search.sizes(count, halving, set(lengths))) if count else 1
    return [Planned(*one, search.ends(*own, halving, rungs)) for one, own in zip(planned, lengths, strict=True)]


def _lengths(experiment: Experiment) -> tuple[int, int]:
    """The steps of a training, and those between its evaluations."""
    steps, per_epoch = experiment.steps, experiment.steps_per_epoch
    return steps, feed.period(steps, per_epoch, experiment.config.train.eval_epochs)


def _sizes(config: ConfigDict, planned: Sequence[Planned]) -> list[int]:
    """The number of settings in each rung."""
    found = [len({one.member.setting for one in planned})]
    for _ in planned[0].ends[1:]:
        found.append(-(-found[-1] // config.population.halving))
    return found


def _describe(config: ConfigDict, planned: Sequence[Planned], most: int) -> str:
    """Members and programs of a population, and the rungs of a search."""
    groups = members_lib.groups([program(one.experiment) for one in planned], most)
    parts = " + ".join(str(len(group)) for group in groups)
    text = f"population: {len(planned)} members in {len(groups)} program{'s' * (len(groups) > 1)}: {parts}"
    if config.population.search:
        first, *later = _sizes(config, planned)
        ends = planned[0].ends
        kept = [f"{size} after step {end}" for size, end in zip(later, ends, strict=False)]
        on = f"{ends[-1]} steps; {', '.join(kept)} go on" if kept else "all trained to the end"
        text += f"\nsearch: {first} settings, {on}"
    changing = [field for field in planned[0].member.values if field.startswith("objective.")]
    if changing and planned[0].data.spec.validation:
        text += f"\nnote: the validation loss depends on {', '.join(changing)} itself: a value that makes it small wins"
    return text


def _rungs(path: Path, config: ConfigDict, planned: Sequence[Planned], most: int, stop: Callable[[], bool]) -> None:
    """Train the members rung by rung, each group of one program at most `most` at a time.

    Who goes on after a rung is a function of the members' metrics, so that a resumed population decides the same.
    """
    sizes, alive = _sizes(config, planned), list(planned)
    for rung in range(len(sizes)):
        chosen = members_lib.groups([program(one.experiment) for one in alive], most)
        where = f"rung {rung + 1} of {len(sizes)}" if len(sizes) > 1 else ""
        for k, group in enumerate(chosen):
            parts = [where] * bool(where) + [f"group {k + 1} of {len(chosen)}"] * (len(chosen) > 1)
            leg = Leg(rung, k, ", ".join(parts) or None, [alive[n] for n in group])
            if processes.share(not group_loop.done(path, leg)):
                group_loop.train(path, leg, stop, run_lib.finish)
        if rung < len(sizes) - 1:
            alive = _halve(path, alive, rung, sizes[rung + 1])


def _halve(path: Path, alive: Sequence[Planned], rung: int, size: int) -> list[Planned]:
    """The members of the best `size` settings after a rung; the others get a file that says why they ended."""
    losses: dict[int, list[float]] = {}
    for one in alive:
        losses.setdefault(one.member.setting, []).append(group_loop.score(path, one.member, one.ends[rung]))
    means = {setting: search.mean(own) for setting, own in losses.items()}
    ranking = search.ranked(means)
    for one in alive if processes.first() else []:
        own, loss = folder(path, one.member.number), means[one.member.setting]
        rank = ranking.index(one.member.setting) + 1
        if rank > size and not (own / run_dir.ENDED).is_file():
            of = f"{one.ends[rung]} of {one.ends[-1]}"
            name = "error" if one.experiment.pair.supervised else "loss"
            text = f"halved after step {of}: validation {name} {loss:.4g}, rank {rank} of {len(ranking)}\n"
            run_dir.write(own / run_dir.ENDED, text)
    # A member that is not finite has no score, even if its setting goes on.
    kept = [one for one in alive if one.member.setting in ranking[:size]]
    return [one for one in kept if np.isfinite(group_loop.score(path, one.member, one.ends[rung]))]


def _finish(path: Path, config: ConfigDict, planned: Sequence[Planned]) -> dict[str, float]:
    """Results, table, figure and page of a population whose members have ended; in the first process."""
    members = [one.member for one in planned]
    found = {m.number: run_dir.read_results(folder(path, m.number)) or {} for m in members}
    finished = [one for one in planned if found[one.member.number]]
    if not finished:
        steps = f"{path / run_dir.MEMBERS}/N/{run_dir.ENDED} name the steps"
        raise NonFiniteError(f"{path}: the loss of no member is finite; {steps}")
    loss = {n: own.get("validation/error", own.get("validation/loss", np.inf)) for n, own in found.items()}
    shown = finished
    if config.population.search:
        each: dict[int, list[float]] = {one.member.setting: [] for one in finished}
        for one in planned:
            each.get(one.member.setting, []).append(loss[one.member.number])
        best = search.ranked({setting: search.mean(own) for setting, own in each.items()})[0]
        shown = [one for one in finished if one.member.setting == best]
    results: dict[str, float] = {"members": len(shown)}
    count = len({one.member.setting for one in shown})
    results |= {"settings": count} if count > 1 else {}
    results |= {"searched": config.population.search} if config.population.search else {}
    results |= _summary([found[one.member.number] for one in shown])
    if np.isfinite(list(loss.values())).any():
        results["best_member"] = min((one.member.number for one in shown), key=lambda n: loss[n])
    results |= _ensembles(path, config, shown, alone=len({one.member.setting for one in finished}) == 1)
    run_dir.write(path / run_dir.TABLE, _table(path, members, found))
    run_dir.write_results(path, results)
    if config.figures.enabled:
        _draw(path)
    for left in (path / run_dir.CHECKPOINTS).glob("*"):  # of a process killed while it deleted them
        shutil.rmtree(left, ignore_errors=True)
    return results


def _ensembles(path: Path, config: ConfigDict, planned: Sequence[Planned], *, alone: bool) -> dict[str, float]:
    """The numbers of the seeds of a setting together, USE/ensemble/METRIC: of uses that take several models, and the
    error of a classifier by the mean of the probabilities. Of several settings they are the mean. alone: whether there
    is one setting, whose uses are those of the population."""
    names = [name for name in config.uses.run if USES[name].ensemble]
    settings: dict[int, list[Planned]] = {}
    for one in planned:
        settings.setdefault(one.member.setting, []).append(one)
    found: list[dict[str, float]] = []
    for own in settings.values():
        models = [saved.load(folder(path, one.member.number)) for one in own]
        if len(models) < 2:
            continue
        kept, data = path if alone else path / "settings" / str(own[0].member.setting), own[0].data
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
    results: dict[str, float] = {}
    for name in names:
        values = [own[name] for own in found if name in own]
        results[name] = float(np.mean(values))
        if len(values) > 1:
            results[f"{name}_std"] = float(np.std(values, ddof=1))
    return results


def _table(path: Path, members: Sequence[Member], found: Mapping[int, Mapping[str, float]]) -> bytes:
    """members.parquet: member, seed, the fields that vary, ended (why a member has no results), steps, the last
    validation loss, and the results."""
    rows: list[dict[str, Any]] = []
    for member in members:
        own, why = folder(path, member.number), folder(path, member.number) / run_dir.ENDED
        values = {field: str(v) if isinstance(v, tuple) else v for field, v in member.values.items()}
        lines = {line["split"]: line for line in metrics_lib.read(own)}
        last = {f"validation/{n}": v for n, v in lines.get("validation", {}).items() if n in ("loss", "error")}
        row = {"member": member.number, "seed": member.seed, **values}
        row |= {"ended": why.read_text().strip() if why.is_file() else None}
        rows.append(row | {"steps": lines["train"]["step"] if "train" in lines else 0, **last, **found[member.number]})
    return output.parquet(rows)


def settings(path: Path) -> list[comparison.Group]:
    """The members that have ended, grouped by setting."""
    runs = sorted((int(own.name), own) for own in (path / run_dir.MEMBERS).iterdir())
    return comparison.grouped(comparison.read([own for _, own in runs], allow_different_data=True))


def table(path: Path, width: int) -> str:
    """The results of a finished population for a terminal, and of several settings the headline results of each."""
    found, groups = run_dir.read_results(path) or {}, settings(path)
    config, _ = run_dir.read(path)
    text = results_lib.table(found, results_lib.likelihood(config))
    if config.population.search:
        return f"{text}\n\n{search_page.table(path)}\n\n{search_page.best(path)}"
    if len(groups) < 2:
        return text
    return f"{text}\n\n{comparison.table(groups, width, results_lib.headline(found))}"


def _draw(path: Path) -> None:
    """The figure and the page; what fails is left out with a line."""
    from aejax.page import figures, report

    try:
        with progress.said("figures and page"):
            figures.save("population", lambda: _figure(path), path / run_dir.FIGURES)
            report.write(path)
    except Exception as error:  # a page never costs the results
        print(f"page: left out: {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)


def _figure(path: Path) -> "Figure":
    """The figure of a finished population."""
    from aejax.page import comparison_figure, search_figure

    config, _ = run_dir.read(path)
    if config.population.search:
        return search_figure.figure(path)
    groups = settings(path)
    name = results_lib.headline(run_dir.read_results(path) or {})[0]
    return comparison_figure.figure(groups, name, comparison_figure.against(groups, None), stacked=True)
