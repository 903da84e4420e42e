"""What a use fits, as a file of arrays in uses/NAME of the run directory, bound to the models that it was fitted to."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aejax.errors import InputError
from aejax.trained import Trained

Arrays = dict[str, np.ndarray]


def pack(arrays: Mapping[str, np.ndarray], models: Sequence[Trained], about: Mapping[str, Any]) -> Arrays:
    """The arrays, with the models' fingerprints and `about` as JSON."""
    text = json.dumps({"models": [model.fingerprint for model in models], **about})
    return {**arrays, "json": np.array(text)}


def read(path: Path, models: Sequence[Trained], use: str) -> tuple[Arrays, dict[str, Any]]:
    """The arrays of a file and what `pack` was told about them; raises InputError unless they are of these models."""
    with np.load(path, allow_pickle=False) as archive:
        stored = {name: archive[name] for name in archive.files}
    about = json.loads(str(stored["json"]))
    if about["models"] != [model.fingerprint for model in models]:
        raise InputError(
            f"{path}: was fitted to another checkpoint of the run; run aejax.evaluate --use={use} again, with the "
            "same --checkpoint"
        )
    return stored, about
