"""A run from config to page: data, pretraining, training, uses, page."""

import contextlib
import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from ml_collections import ConfigDict

from aejax import experiment as experiment_lib
from aejax.data import sources
from aejax.data.dataset import Dataset
from aejax.data.lazy import Lazy
from aejax.errors import FieldError, InputError, Stopped, raise_all
from aejax.experiment import Experiment, State
from aejax.losses import units
from aejax.parallel import mesh as mesh_lib
from aejax.parallel import processes
from aejax.storage import metrics as metrics_lib
from aejax.storage import run_dir, saved
from aejax.trained import of_state
from aejax.training import bias, few_labels, plan, progress, resumption, stages
from aejax.training.loop import Outcome, optimize
from aejax.training.trainer import InitialParams, Trainer
from aejax.uses import USES


def run(
    config: ConfigDict,
    workdir: str | Path | None = None,
    data: Dataset | None = None,
    *,
    restart_stage: int | None = None,
    temporary: bool = False,
) -> dict[str, float]:
    """Train `config` in `workdir`, or resume there; returns the results. The path of a `temporary` one is not shown.

    `restart_stage` deletes that stage of pretraining and the following ones, once, and trains them again.
    Raises InputError before anything is written, NonFiniteError, and Stopped after SIGTERM or Ctrl-C; in the
    last two cases the last good state has been saved. Each of several processes calls it with the
    same arguments; the first one writes.
    """
    with processes.agreed():
        config = plan.resolve(config)
        with progress.said(f"reading {config.data.source}", processes.first()):
            data = data or sources.load(config)
        experiment, mesh = prepare(config, data)
        _check_restart(config, restart_stage)
        stages.check(config, data.spec, mesh)
        few_labels.check(config, data.spec, data.train.get("y"))
    path = directory(config, workdir)
    if not processes.same(data.spec.digest):
        raise FieldError("data.source", config.data.source, "must hold the same data for all processes")
    if not processes.same(str(isinstance(data.train["x"], Lazy))):  # their machines have different memory
        raise FieldError(
            "data.resident", config.data.resident, "must be true or false: the processes decide differently"
        )
    with contextlib.ExitStack() as stack:
        with processes.agreed():
            origin = stages.origin(experiment)
            if processes.first():
                stack.enter_context(resumption.opened(path, config, data.spec, restart_stage))
                print(f"data: {data.describe()}", flush=True)
                if not temporary:
                    print(f"run directory: {path}{run_dir.progress(path, experiment.steps)}", flush=True)
            results = run_dir.read_results(path) if processes.first() else None
        stop = stack.enter_context(stopped())
        results = processes.share(results)
        if results is None:
            pretrained = stages.run(config, path, data, mesh, stop)
            results = _train(experiment, path, data, mesh, stop, pretrained, origin)
        elif processes.first() and config.figures.enabled and not (path / run_dir.REPORT).exists():
            _draw(experiment, data, path)  # a run that was killed between its results and its page
    return cast(dict[str, float], results)


def prepare(config: ConfigDict, data: Dataset) -> tuple[Experiment, jax.sharding.Mesh]:
    """The experiment of a resolved config on data, and its mesh, both checked; raises InputError."""
    raise_all(experiment_lib.check(config, data.spec))
    raise_all(error for name in config.uses.run for error in USES[name].check(config, data.spec))
    mesh = mesh_lib.make(config.mesh.data, config.mesh.model)
    mesh_lib.check_batch(mesh, "train.batch_size", config.train.batch_size)
    return experiment_lib.build(config, data.spec), mesh


def directory(config: ConfigDict, workdir: str | Path | None) -> Path:
    """The run directory of a config."""
    return Path(workdir).expanduser() if workdir else run_dir.default_path(plan.implied(config))


def _check_restart(config: ConfigDict, restart_stage: int | None) -> None:
    last = len(config.pretrain.widths)
    if restart_stage is not None and (not last or restart_stage > last):
        allowed = f"must be one of 0 to {last}, the last for the final model" if last else ""
        without = "this config has no stages, config.pretrain.widths is ()"
        raise InputError(f"--restart_stage={restart_stage}: {allowed or without}")


def _train(
    experiment: Experiment,
    path: Path,
    data: Dataset,
    mesh: jax.sharding.Mesh,
    stop: Callable[[], bool],
    pretrained: stages.Stages,
    origin: stages.Origin | None,
) -> dict[str, float]:
    """The final training, the results of the run, and its page."""
    classifier = experiment.pair.supervised
    config = experiment.config
    start: InitialParams | None = None
    if config.model.decoder.bias_init == "data_mean":
        start = functools.partial(bias.data_mean, experiment=experiment, data=data)
    if pretrained.params or origin:
        graft = functools.partial(stages.initial_params, stages=pretrained, origin=origin, classifier=classifier)
        begin = start
        start = (lambda params: graft(begin(params))) if begin else graft
    if config.data.labeled_examples:
        results = few_labels.run(config, path, data, stop, start) | pretrained.results
        if processes.first():
            run_dir.write_results(path, results)
    else:
        trainer = Trainer(experiment, data, mesh)
        outcome = optimize(trainer, path, stop, start, offset=pretrained.steps)
        numbers = _evaluate(trainer, outcome, pretrained.seconds)
        state = trainer.gather(outcome.state)
        results = processes.share(finish(experiment, data, path, state, numbers | pretrained.results))
    if processes.first() and config.figures.enabled:
        _draw(experiment, data, path)
    return results


def _evaluate(trainer: Trainer, outcome: Outcome, seconds: float) -> dict[str, float]:
    """The numbers of a trained state on the held-out splits, and of its training; all processes take part."""
    results: dict[str, float] = {}
    for split in ("test", "validation") if trainer.data.spec.validation else ("test",):
        with progress.said(f"evaluation of the {split} split", processes.first()):
            found = trainer.evaluate(outcome.state, split)
        results |= {f"{split}/{name}": value for name, value in found.items()}
    results["epochs"] = int(outcome.state.step) / trainer.feed.steps_per_epoch
    results["seconds"] = seconds + outcome.progress.seconds
    if outcome.rates:  # the first interval holds the compilation
        results["examples_per_second"] = float(np.median(outcome.rates[1:] or outcome.rates))
    return results


def finish(
    experiment: Experiment, data: Dataset, path: Path, state: State, results: dict[str, float]
) -> dict[str, float] | None:
    """Write the results of a run with those of its uses, in the first process.

    Uses are imported here, so that the first step need not wait for them. Figures are drawn after the results.
    """
    if not processes.first():
        return None
    from aejax.uses import runner
    from aejax.uses.data import Data

    model = of_state(experiment, state)
    results["parameters"] = model.parameters
    if len(model.code_shape) == 1 and not model.objective.units:
        gaussian = experiment.config.model.bottleneck.name == "gaussian"
        results["test/dead_units"] = units.dead(model.map(model.pure_encode, data.test["x"]), gaussian)
    uses = experiment.config.uses
    results |= runner.run(model, Data(experiment, data), uses.run, path, uses)
    run_dir.write_results(path, results)
    return results


def _draw(experiment: Experiment, data: Dataset, path: Path) -> None:
    """The figures of a finished run, its page, and the figures in TensorBoard; what fails is left out with a line."""
    from aejax.page import figures, report

    try:
        with progress.said("figures and page"):
            if experiment.config.data.labeled_examples:
                figures.save("few_labels", lambda: figures.few_labels_curve(path), path / run_dir.FIGURES)
            else:
                from aejax.uses.data import Data

                figures.draw(saved.load(path), Data(experiment, data), metrics_lib.read(path), path)
            report.write(path)
            metrics_lib.show_figures(path)
    except Exception as error:  # a page never costs the results
        print(f"page: left out: {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)


@contextlib.contextmanager
def stopped() -> Iterator[Callable[[], bool]]:
    """Context manager: SIGTERM and the first Ctrl-C do not end the process; the function says whether any process
    has received one."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def receive(number: int, frame: Any) -> None:
        received.append(number)
        if number == signal.SIGINT:
            signal.signal(number, previous[number])  # the next one acts at once

    try:
        previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, receive)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # unless it is ignored
            previous[signal.SIGINT] = signal.signal(signal.SIGINT, receive)
    except ValueError:  # not the main thread: signals are somebody else's
        yield lambda: processes.any_of(False)
        return
    try:
        yield lambda: processes.any_of(bool(received))
    except Stopped as error:
        error.exit_code = 128 + received[0] if received else error.exit_code
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
