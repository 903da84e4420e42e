"""The loop over the steps of a trainer: metrics, evaluations, checkpoints, resumption."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from aejax.errors import InputError, Stopped
from aejax.experiment import State
from aejax.parallel import processes
from aejax.storage import metrics as metrics_lib
from aejax.storage import run_dir
from aejax.storage.checkpoint import Checkpoints
from aejax.training import nonfinite
from aejax.training import progress as progress_lib
from aejax.training.trainer import InitialParams, Trainer


@dataclasses.dataclass
class Progress:
    """The progress of a training besides its state; saved with each checkpoint."""

    digest: str = ""  # of data and config, for a stage: a checkpoint with another one is refused
    seconds: float = 0.0  # of training, with evaluations and checkpoints
    best: float = float("inf")  # smallest validation loss; of a classifier its error
    waited: int = 0  # evaluations since then


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The end of a training."""

    state: State
    progress: Progress
    rates: list[float]  # examples per second of each dispatch of this process


def optimize(
    trainer: Trainer,
    path: Path,
    stop: Callable[[], bool],
    initial_params: InitialParams | None = None,
    *,
    stage: str = "",
    offset: int = 0,
    digest: str = "",
) -> Outcome:
    """Train to the end, from the newest checkpoint or from `trainer.init(initial_params)`.

    Checkpoints of a `stage` of pretraining lie in a folder of that name. Metrics of a stage start at step `offset`.
    `digest` identifies the data and config of a stage; a checkpoint with another digest is refused.
    """
    config, data = trainer.config, trainer.data
    folder, has_validation = path / run_dir.CHECKPOINTS / stage, bool(data.spec.validation)
    patience = config.finetune.patience if has_validation else 0
    with contextlib.ExitStack() as stack:
        last = stack.enter_context(Checkpoints(folder / "last", config.checkpoint.max_to_keep))
        best = stack.enter_context(Checkpoints(folder / "best")) if has_validation and not stage else None
        stack.enter_context(processes.guarded())  # exits without waiting for the checkpoints
        start_step, state, progress = _start(trainer, last, initial_params, folder, stage, digest)
        if start_step == trainer.steps > 0 or (patience and progress.waited >= patience) or trainer.over(state):
            return Outcome(state, progress, [])
        log = stack.enter_context(_Log(trainer, path, stage, offset, start_step))
        clock = time.perf_counter()
        for start, end in trainer.intervals(start_step):
            with log.dispatch(start, end):
                try:
                    state, metrics = trainer.run(state, start, end)
                except nonfinite.FailedSteps as failed:
                    replay = lambda: _replay(trainer, last, initial_params, start)  # noqa: B023, E731  (called at once)
                    step, good, error = nonfinite.last_good(trainer, failed, replay, start, end)
                    last.save(step, good, dataclasses.asdict(progress))
                    raise error from None
            log.train(end, metrics)
            reason = trainer.over(state)
            if end % trainer.period == 0 or end == trainer.steps or reason:
                for split in ("validation", "test") if has_validation else ("test",):
                    held_out = trainer.evaluate(state, split)
                    log.write(end, split, held_out)
                    if best and split == "validation" and _improves(progress, held_out):
                        best.save(end, state, dataclasses.asdict(progress))
            over = end == trainer.steps or bool(patience and progress.waited >= patience) or bool(reason)
            due = end // config.checkpoint.every_steps != start // config.checkpoint.every_steps
            stopped = stop()
            if due or over or stopped:
                now = time.perf_counter()
                progress.seconds, clock = progress.seconds + now - clock, now
                if over and patience:
                    assert best is not None
                    best.wait()
                    state, _ = best.restore(best.latest() or 0, trainer.abstract)
                last.save(end, state, dataclasses.asdict(progress))
            if reason and processes.first():
                print(f"training ends at step {end} of {trainer.steps}: {reason}", flush=True)
            if over:
                break
            if stopped:
                of = f"{trainer.steps} of {stage.replace('_', ' ')}" if stage else trainer.steps
                raise Stopped(f"stopped at step {end} of {of}; the same command resumes from there")
        if last.latest() is None:  # nothing to train
            last.save(0, state, dataclasses.asdict(progress))
        last.wait()
    return Outcome(state, progress, log.rates)


def _start(
    trainer: Trainer,
    last: Checkpoints,
    initial_params: InitialParams | None,
    folder: Path,
    stage: str,
    digest: str,
) -> tuple[int, State, Progress]:
    """The step, state and progress of the newest checkpoint, or of the start."""
    saved = processes.share(last.latest())
    if saved is None:
        return 0, trainer.init(initial_params), Progress(digest)
    state, meta = last.restore(saved, trainer.abstract)
    if meta["digest"] != digest:
        raise InputError(
            f"{folder}: was trained on other data or with another config; --restart_{stage.replace('_', '=')} "
            "trains this stage and the following ones again"
        )
    return saved, state, Progress(**meta)


def _replay(trainer: Trainer, last: Checkpoints, initial_params: InitialParams | None, step: int) -> State:
    """The state before `step`, computed again from the newest checkpoint."""
    last.wait()
    saved = processes.share(last.latest())
    state = trainer.init(initial_params) if saved is None else last.restore(saved, trainer.abstract)[0]
    for start, end in trainer.intervals(saved or 0):
        if start < step:
            state, _ = trainer.run(state, start, end)
    return state


def _improves(progress: Progress, held_out: dict[str, float]) -> bool:
    """Whether this evaluation is the best so far. A classifier is chosen by its error, anything else by its loss."""
    score = held_out.get("error", held_out["loss"])
    progress.waited += 1
    if score < progress.best:
        progress.best, progress.waited = score, 0
        return True
    return False


class _Log(contextlib.ExitStack):
    """The metrics file, the progress bar and the profile of a training."""

    def __init__(self, trainer: Trainer, path: Path, stage: str, offset: int, start_step: int):
        super().__init__()
        config = trainer.config
        self.rates: list[float] = []
        self._trainer, self._offset, self._stage = trainer, offset, {"stage": stage} if stage else {}
        self._writer = self.enter_context(contextlib.closing(metrics_lib.Writer(path, offset + start_step)))
        shown = config.train.progress and processes.first()
        self._bar = self.enter_context(
            progress_lib.bar(trainer.steps, "step", shown, initial=start_step, desc=stage or None, postfix="compiles")
        )
        self._trace, self._folder = self.enter_context(contextlib.ExitStack()), path / run_dir.PROFILE / stage
        self._wanted = self._left = config.train.profile_steps
        self._step = start_step

    @contextlib.contextmanager
    def dispatch(self, start: int, end: int) -> Iterator[None]:
        """Time a dispatch, and trace it where config.train.profile_steps asks for it; the first one compiles."""
        if self.rates and self._left == self._wanted > 0:
            self._trace.enter_context(jax.profiler.trace(self._folder))
        before = time.perf_counter()
        yield
        if self.rates and self._left > 0:
            self._left -= end - start
            if self._left <= 0:
                self._trace.close()
        self.rates.append((end - start) * self._trainer.feed.batch_size / (time.perf_counter() - before))

    def train(self, step: int, metrics: dict[str, float]) -> None:
        """Write the metrics of a dispatch that ends at `step`."""
        self.write(step, "train", metrics | {"examples_per_second": self.rates[-1]})
        self._bar.update(step - self._step)
        self._step = step
        self._bar.set_postfix_str(f"loss {metrics['loss']:.4g}, {self.rates[-1]:.3g} examples/s", refresh=False)

    def write(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """A line of metrics.jsonl."""
        epoch = step / self._trainer.feed.steps_per_epoch
        self._writer.write(self._offset + step, epoch, split, self._stage | metrics)
