"""The metrics of a run: metrics.jsonl and TensorBoard, which shows the figures too."""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboardX import FileWriter, SummaryWriter
from tensorboardX.proto.summary_pb2 import Summary

from aejax.parallel import processes
from aejax.storage.run_dir import FIGURES, METRICS, TENSORBOARD, USES, write


class Writer:
    """Writes metrics to metrics.jsonl and TensorBoard, in process 0; lines after the resumed step are removed."""

    def __init__(self, path: Path, step: int, *, board: bool = True):
        kept = [line for line in read(path) if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write(path / METRICS, text)
        first = processes.first()
        self._file = open(path / METRICS if first else os.devnull, "a")  # noqa: SIM115  (closed in close)
        purge = step + 1 if step else None
        self._board = SummaryWriter(str(path / TENSORBOARD), purge_step=purge, write_to_disk=first and board)

    def write(self, step: int, epoch: float, split: str, metrics: Mapping[str, Any]) -> None:
        line = {"step": step, "epoch": round(epoch, 4), "split": split, **metrics}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            if name != "stage":
                self._board.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def show_figures(path: Path) -> None:
    """Copy the figures of a run directory and of its uses to TensorBoard, at the last step of the metrics.

    Tags are the paths without .png, such as figures/codes.
    """
    step = max((line["step"] for line in read(path)), default=0)
    # Event files are named by the second in which they were opened; the suffix makes this name unique.
    with contextlib.closing(FileWriter(str(path / TENSORBOARD), filename_suffix=".figures")) as board:
        for folder in (path / FIGURES, *sorted((path / USES).glob(f"*/{FIGURES}"))):
            for file in sorted(folder.glob("*.png")):
                with Image.open(file) as image:
                    size = {"width": image.width, "height": image.height, "colorspace": len(image.getbands())}
                shown = Summary.Image(encoded_image_string=file.read_bytes(), **size)
                tag = str(file.relative_to(path).with_suffix(""))
                board.add_summary(Summary(value=[Summary.Value(tag=tag, image=shown)]), step)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; an incomplete last line (of a killed process) is skipped."""
    if not (path / METRICS).is_file():
        return []
    lines = []
    for text in (path / METRICS).read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines


def history(metrics: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """ "SPLIT/NAME" -> the values [lines] of that metric in the final training; NaN if a line lacks it."""
    lines = [line for line in metrics if "stage" not in line]
    found = {}
    for split in dict.fromkeys(line["split"] for line in lines):
        own = [line for line in lines if line["split"] == split]
        for name in dict.fromkeys(name for line in own for name in line if name != "split"):
            found[f"{split}/{name}"] = np.array([line.get(name, np.nan) for line in own])
    return found
