"""The encoder of a text model for the page, which places a typed query on the map of the codes."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from aejax.data.spec import Spec
from aejax.storage import weights
from aejax.trained import Trained

# Operations that report.html has, too.
KNOWN = {"binary", "tfidf", "log1p", "proportions", "reshape", "dense", "layer_norm", "batch_norm", "first"}
ACTIVATIONS = {"relu", "tanh", "sigmoid", "softplus", "gelu", "silu", "elu", "selu", "leaky_relu"}
LARGEST = 32767  # of an int16


def stored(model: Trained) -> dict[str, np.ndarray]:
    """Arrays for the run directory: the encoder's steps, and what they need as int16 with one scale for each array.

    Nothing for a model without a vocabulary, or with an operation that the page does not have.
    """
    if not model.spec.x.text:
        return {}
    try:
        steps = weights.steps(model)["encode"]
    except weights.NoReferenceError:
        return {}
    if {step["op"] for step in steps} - KNOWN - ACTIVATIONS:
        return {}
    arrays = weights.arrays(model)
    names = dict.fromkeys(
        value for step in steps for key, value in step.items() if key != "op" and isinstance(value, str)
    )
    found = {"query": np.array(json.dumps(steps))}
    for name in names:
        scale = max(float(np.abs(arrays[name]).max()), 1e-30) / LARGEST
        found[f"query/{name}"] = np.round(arrays[name] / scale).astype("<i2")
        found[f"scale/{name}"] = np.array(scale)
    return found


def for_page(stored: Mapping[str, np.ndarray], spec: Spec) -> dict[str, Any] | None:
    """{words, steps, arrays: {name: {shape, scale, values in base64}}}; None if nothing is stored."""
    if "query" not in stored:
        return None
    arrays = {
        name.partition("/")[2]: {
            "shape": values.shape,
            "scale": float(stored[name.replace("query/", "scale/", 1)]),
            "values": base64.b64encode(values.tobytes()).decode(),
        }
        for name, values in stored.items()
        if name.startswith("query/")
    }
    return {"words": spec.x.columns, "steps": json.loads(str(stored["query"])), "arrays": arrays}
