"""Recordings: WAV files of 16-bit PCM as series."""

import dataclasses
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from aejax.data.sources.files import Files, find
from aejax.errors import InputError

SUFFIXES = (".wav", ".wave")
BITS, FULL_SCALE = 16, 2**15


@dataclasses.dataclass(frozen=True)
class Recordings:
    """The recordings of a split. All of a source have one sampling rate and one number of channels."""

    found: Files
    rate: int  # samples per second
    steps: int  # of the longest recording of the source
    channels: int

    @property
    def note(self) -> str:
        """What was read, for the report."""
        return f"{self.rate:,} samples per second"

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """Series [n, steps, channels], from -1 to 1; the steps after the end of a recording are NaN."""
        x = np.full((len(rows), self.steps, self.channels), np.nan, np.float32)
        for series, row in zip(x, rows, strict=True):
            samples = _read(self.found.paths[row])
            series[: len(samples)] = samples
        return x


def read(argument: str, config: ConfigDict) -> dict[str, Any]:
    """Every recording: {x, y}, or {x_train, y_train, x_test, y_test}."""
    raw: dict[str, Any] = {"kind": "series", "notes": []}
    for name, part in parts(argument, config).items():
        end = name and f"_{name}"
        raw[f"x{end}"] = part.read(range(len(part.found.paths)))
        if part.found.classes is not None:
            raw[f"y{end}"] = part.found.classes
        raw["notes"] += [*part.found.notes, *([] if part.note in raw["notes"] else [part.note])]
    return raw


def parts(argument: str, config: ConfigDict) -> dict[str, Recordings]:
    """The recordings of a folder, by split; see `files.find`. Only the headers are read. Raises InputError."""
    found = find(Path(argument), config, SUFFIXES, "WAV files")
    headers = {path: _header(path) for part in found.values() for path in part.paths}
    (first, (rate, channels, _)), *others = headers.items()
    for path, (own, own_channels, _) in others:
        if own != rate:
            raise InputError(
                f"{path}: has {own:,} samples per second, and {first} has {rate:,}; resample all to one rate"
            )
        if own_channels != channels:
            raise InputError(f"{path}: has {own_channels} channels, and {first} has {channels}; mix all to one number")
    steps = max(length for _, _, length in headers.values())
    return {name: Recordings(part, rate, steps, channels) for name, part in found.items()}


def _header(path: Path) -> tuple[int, int, int]:
    """Samples per second, channels and steps of a file; raises InputError."""
    try:
        with wave.open(str(path)) as file:
            bits, steps = 8 * file.getsampwidth(), file.getnframes()
            if bits != BITS:
                raise InputError(f"{path}: has {bits} bits per sample; must have {BITS} (PCM)")
            if not steps:
                raise InputError(f"{path}: holds no samples")
            return file.getframerate(), file.getnchannels(), steps
    except (wave.Error, EOFError, OSError) as error:
        raise _unreadable(path, error) from error


def _read(path: Path) -> np.ndarray:
    """The samples [steps, channels] as fractions of full scale; raises InputError."""
    try:
        with wave.open(str(path)) as file:
            steps, channels = file.getnframes(), file.getnchannels()
            data = file.readframes(steps)
    except (wave.Error, EOFError, OSError) as error:
        raise _unreadable(path, error) from error
    if len(data) != BITS // 8 * steps * channels:
        raise InputError(f"{path}: ends before its last sample: its header announces {steps:,} steps")
    return np.frombuffer(data, "<i2").reshape(steps, channels) / np.float32(FULL_SCALE)


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: cannot be read as a WAV file of {BITS}-bit PCM: {str(error) or 'it ends too early'}")
