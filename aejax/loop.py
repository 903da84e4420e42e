"""The loop over the steps of a trainer: metrics, evaluations, checkpoints, resumption."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from aejax import processes, run_dir
from aejax.checkpoint import Checkpoints
from aejax.errors import InputError, NonFiniteError, Stopped
from aejax.steps import State
from aejax.trainer import FailedStep, Trainer


def optimize(
    trainer: Trainer,
    path: Path,
    stop: Callable[[], bool],
    begin: Callable[[Any], Any] | None = None,
    *,
    stage: str = "",
    offset: int = 0,
    digest: str = "",
) -> tuple[State, dict[str, Any], list[float]]:
    """Train to the end, from the newest checkpoint or from `trainer.init(begin)`.

    Checkpoints of a `stage` of pretraining lie in a folder of that name, its lines of metrics count their
    steps from `offset`; both are those of `digest`, which tells what determines them. Returns the state, what
    is saved with it, and examples/s of each interval.
    """
    config, data = trainer.config, trainer.data
    folder, validation = path / run_dir.CHECKPOINTS / stage, bool(data.spec.validation)
    patience = config.finetune.patience
    named: dict[str, Any] = {"stage": stage} if stage else {}
    waits = bool(patience and validation)
    with contextlib.ExitStack() as stack:
        last = stack.enter_context(Checkpoints(folder / "last", config.checkpoint.max_to_keep))
        best = stack.enter_context(Checkpoints(folder / "best")) if validation and not stage else None
        stack.enter_context(processes.guarded())  # whose end does not wait for the checkpoints
        meta: dict[str, Any] = {"seconds": 0.0, "best": float("inf"), "waited": 0, "digest": digest}
        saved = processes.share(last.latest())
        if saved is None:
            state = trainer.init(begin)
        else:
            state, meta = last.restore(saved, trainer.abstract)
            if meta["digest"] != digest:
                raise InputError(
                    f"{folder}: was trained on other data or with another config; --restart_{stage.replace('_', '=')} "
                    "trains it and what follows it again"
                )
            if saved == trainer.steps or (waits and meta["waited"] >= patience):
                return state, meta, []
        first = saved or 0
        writer = stack.enter_context(contextlib.closing(run_dir.Writer(path, offset + first)))
        bar = stack.enter_context(
            tqdm(
                total=trainer.steps,
                initial=first,
                unit="step",
                desc=stage or None,
                disable=None if config.train.progress and processes.first() else True,
            )
        )
        trace, to_trace = stack.enter_context(contextlib.ExitStack()), config.train.profile_steps
        rates: list[float] = []
        clock = time.perf_counter()
        for start, end in trainer.intervals(first):
            if rates and to_trace == config.train.profile_steps > 0:  # the first interval compiles
                trace.enter_context(jax.profiler.trace(path / run_dir.PROFILE / stage))
            before = time.perf_counter()
            try:
                state, metrics = trainer.run(state, start, end)
            except FailedStep as failed:
                if failed.state is None:  # what came before again
                    last.wait()
                    saved = processes.share(last.latest())
                    state = trainer.init(begin) if saved is None else last.restore(saved, trainer.abstract)[0]
                    for again, upto in trainer.intervals(saved or 0):
                        if again < start:
                            state, _ = trainer.run(state, again, upto)
                    failed = trainer.failure(state, start, end)
                last.save(failed.step, failed.state, meta)
                raise NonFiniteError(f"{failed}; the state before it is saved") from None
            if rates and to_trace > 0:
                to_trace -= end - start
                if to_trace <= 0:
                    trace.close()
            rates.append((end - start) * config.train.batch_size / (time.perf_counter() - before))
            epoch = end / trainer.feed.steps_per_epoch
            line = named | metrics | {"examples_per_second": rates[-1]}
            writer.write(offset + end, epoch, "train", line)
            bar.update(end - start)
            bar.set_postfix_str(f"loss {metrics['loss']:.4g}, {rates[-1]:.3g} examples/s")
            if end % trainer.period == 0 or end == trainer.steps:
                for split in ("validation", "test") if validation else ("test",):
                    held_out = trainer.evaluate(state, split)
                    writer.write(offset + end, epoch, split, named | held_out)
                    if best and split == "validation":
                        # A classifier is chosen by its error, anything else by its loss.
                        score = held_out.get("error", held_out["loss"])
                        meta["waited"] += 1
                        if score < meta["best"]:
                            meta["best"], meta["waited"] = score, 0
                            best.save(end, state, meta)
            over = end == trainer.steps or (waits and meta["waited"] >= patience)
            due = end // config.checkpoint.every_steps != start // config.checkpoint.every_steps
            stopped = stop()
            if due or over or stopped:
                now = time.perf_counter()
                meta["seconds"], clock = meta["seconds"] + now - clock, now
                if over and waits:
                    assert best is not None
                    best.wait()
                    state, _ = best.restore(best.latest() or 0, trainer.abstract)
                last.save(end, state, meta)
            if over:
                break
            if stopped:
                of = f"{trainer.steps} of {stage.replace('_', ' ')}" if stage else trainer.steps
                raise Stopped(f"stopped at step {end} of {of}; the same command goes on from there")
        if last.latest() is None:  # nothing to train
            last.save(0, state, meta)
        last.wait()
        bar.close()
    return state, meta, rates
