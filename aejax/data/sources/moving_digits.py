"""Generated videos: one or two digits that move, with captions; after Mittal et al. (2017)."""

import dataclasses
from typing import Annotated, Any

import numpy as np
from ml_collections import ConfigDict

from aejax.data.sources.digits import read as read_digits
from aejax.data.sources.idx import read as read_idx
from aejax.errors import FieldError
from aejax.fields import Field, at_least

FRAMES = 10
SIDE = 3  # of a frame, in sides of a digit
MOTIONS = ("left and right", "up and down")


@dataclasses.dataclass(frozen=True)
class Fields:
    moving_digits_train: Annotated[int, Field("moving_digits: videos of the training split", at_least(1))] = 30_000
    moving_digits_test: Annotated[int, Field("moving_digits: videos of the test split", at_least(1))] = 1_000


def read(argument: str, config: ConfigDict) -> dict[str, Any]:
    """Videos, uint8 [N, 10, 3h, 3h, 1], of one or two digits of h pixels, half of each.

    The digits are those of `digits` (h = 8, frames of 24x24), or those of idx:DIR (MNIST: h = 28, frames of 84x84). The
    videos of the test split show digits of the test split, which is drawn at random from the 1797 digits.

    A digit moves along one axis by h / 8 pixels a frame, on from the border in the other direction; where it starts,
    and in which direction, is drawn. Where two digits overlap, the lighter pixel is seen. caption: "the digit 3 moves
    left and right", and of two digits "the digit 3 moves left and right and the digit 7 moves up and down", the smaller
    digit first; of equal digits the one that moves left and right. y: one | two, the number of digits.
    """
    raw = read_digits("", config) if not argument else _idx(argument, config)
    made: dict[str, Any] = {"kind": "video", "levels": {"caption": "words"}}
    for seed, split in enumerate(("train", "test")):
        n = config.data[f"moving_digits_{split}"]
        x, caption, y = _videos(raw[f"x_{split}"], raw[f"y_{split}"], n, np.random.RandomState(seed))
        made |= {f"x_{split}": x, f"caption_{split}": caption, f"y_{split}": y}
    return made


def _idx(argument: str, config: ConfigDict) -> dict[str, Any]:
    kind, _, folder = argument.partition(":")
    if kind != "idx" or not folder:
        raise FieldError("data.source", config.data.source, "must be written moving_digits or moving_digits:idx:DIR")
    return read_idx(folder, config)


def _videos(
    images: np.ndarray, labels: np.ndarray, n: int, random: np.random.RandomState
) -> tuple[np.ndarray, list[str], np.ndarray]:
    if images.dtype != np.uint8:
        images = np.round(255 * images).astype(np.uint8)
    images = images.reshape(len(images), *images.shape[1:3])
    side = images.shape[1]
    most = (SIDE - 1) * side  # the largest place of a digit's corner
    video = np.zeros((n, FRAMES, SIDE * side, SIDE * side, 1), np.uint8)
    captions, number = [], np.where(np.arange(n) % 2, "two", "one")
    for i in range(n):
        parts = []
        for _ in range(1 + i % 2):
            row, axis = random.randint(len(images)), random.randint(2)
            start = random.randint(most + 1, size=2)
            # Along its axis a place goes forth and back: a triangle wave of period 2 most.
            phase = (start[axis] + most * random.randint(2) + np.arange(FRAMES) * max(side // 8, 1)) % (2 * most)
            places = np.tile(start, (FRAMES, 1))
            places[:, axis] = most - np.abs(phase - most)
            for frame, (column, line) in zip(video[i, :, :, :, 0], places, strict=True):
                window = frame[line : line + side, column : column + side]
                np.maximum(window, images[row], out=window)
            parts.append((int(labels[row]), axis))
        phrases = [f"the digit {digit} moves {MOTIONS[axis]}" for digit, axis in sorted(parts)]
        captions.append(" and ".join(phrases))
    return video, captions, number
