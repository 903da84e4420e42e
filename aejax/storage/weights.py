"""The arrays of a trained model by name, and the steps of its forward pass for `reference`, which needs NumPy alone."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from aejax.pairs.colour import GREYS
from aejax.storage import reference
from aejax.trained import Trained

Step = dict[str, Any]  # an operation `op` and its fields; a string is the name of an array
INPUTS = {"identity": [], "log": ["log1p"], "proportions": ["proportions"]}
MEANS = {"squared_error": [], "gaussian": [], "bernoulli": ["sigmoid"], "categorical": ["softmax"]}


STATISTICS = {"mean": "preprocessing/mean", "deviation": "preprocessing/deviation"}


class NoReferenceError(Exception):
    """`reference` cannot run the model; the message says why."""


def arrays(model: Trained) -> dict[str, np.ndarray]:
    """Parameters, such as encoder/layers_0/kernel, batch statistics, and the preprocessing's numbers in float64."""
    x = model.spec.x
    own = {"mean": x.mean, "deviation": x.deviation, "fill": x.fill, "idf": x.idf}
    variables = {name: values for name, values in model.variables.items() if name != "method"}
    leaves = jax.tree_util.tree_leaves_with_path((model.params, variables))
    trained = {"/".join(str(entry.key) for entry in path[1:]): np.asarray(leaf) for path, leaf in leaves}
    return trained | {f"preprocessing/{name}": np.asarray(values) for name, values in own.items() if values}


def steps(model: Trained) -> dict[str, list[Step]]:
    """{"encode": raw examples -> codes, "decode" or "classify": codes -> the mean of the output}.

    Raises NoReferenceError for a model that is not an MLP, and for parts that `reference` does not have.
    """
    family = model.config.model.name
    if family != "mlp":
        raise NoReferenceError(f"the reference needs model.name = 'mlp', not {family!r}")
    last = "classify" if model.objective.pair.supervised else "decode"
    made = {"encode": [*_prepare(model), *_encode(model)], last: [*_decode(model), *_finish(model)]}
    unknown = {step["op"] for part in made.values() for step in part} - set(reference.OPERATIONS)
    if unknown:
        raise NoReferenceError(f"the reference has no {', '.join(sorted(unknown))}")
    return made


def _prepare(model: Trained) -> Iterator[Step]:
    """Raw examples -> the encoder's input."""
    x, config = model.spec.x, model.config
    pair = config.pair
    if x.dtype == "uint8":
        yield {"op": "divide", "by": 255}
    if x.text in ("binary", "tfidf"):
        yield {"op": x.text} | ({"idf": "preprocessing/idf"} if x.idf else {})
    if x.categories or x.fill or x.indicators:
        names = x.columns or ("",) * x.width
        sizes = [len(x.categories.get(name, ())) for name in names]
        fill = "preprocessing/fill" if x.fill else None
        yield {"op": "one_hot", "sizes": sizes, "indicators": list(x.indicators), "fill": fill}
    if x.mean:
        yield {"op": "standardise", **STATISTICS}
    if x.missing == "mask":
        yield {"op": "nan_to_zero"}
    if pair.name == "colorize":
        yield {"op": "grey", "shares": list(GREYS[pair.colorize.grey])}
    elif pair.name == "inpaint" and pair.inpaint.conditional:
        raise NoReferenceError("pair.inpaint.conditional = True: the decoder sees part of an image besides the code")
    elif pair.name == "inpaint" and pair.inpaint.channel and x.kind == "series":
        raise NoReferenceError("pair.inpaint.channel = True: the encoder sees which steps were not observed")
    elif pair.name == "inpaint" and pair.inpaint.channel:
        yield {"op": "nothing_hidden"}
    elif pair.name not in ("reconstruct", "denoise", "inpaint", "label"):
        raise NoReferenceError(f"the reference has no pair.name = {pair.name!r}")
    yield from ({"op": op} for op in _known(INPUTS, "pair.input", pair.input))


def _encode(model: Trained) -> Iterator[Step]:
    own, neck = model.config.model, model.config.model.bottleneck
    count = len(own.encoder.widths) + 1
    first = model.params["encoder"]["layers_0"]["kernel"]
    yield {"op": "reshape", "shape": [first.shape[0]]}
    for i in range(count):
        yield _dense(model, "encoder", i, f"encoder/layers_{i}/kernel")
        activation = own.encoder.activation if i < count - 1 else own.code_activation
        yield from _activate(model, "encoder", i, activation, own.encoder.norm if i < count - 1 else "none")
    if neck.name == "gaussian":
        yield {"op": "first", "units": neck.size}
    elif neck.name == "topk":
        yield {"op": "largest", "k": neck.topk.test}
    elif neck.name not in ("identity", "nested"):
        raise NoReferenceError(f"the reference has no model.bottleneck.name = {neck.name!r}")


def _decode(model: Trained) -> Iterator[Step]:
    """Codes -> the decoder's output."""
    own = model.config.model.decoder
    count = 1 + max(int(name.removeprefix("layers_")) for name in model.params["decoder"] if name.startswith("layers_"))
    for i in range(count):
        tied = f"encoder/layers_{count - 1 - i}/kernel" if own.tied else ""
        yield _dense(model, "decoder", i, tied or f"decoder/layers_{i}/kernel") | ({"transposed": True} if tied else {})
        if i < count - 1:
            yield from _activate(model, "decoder", i, own.activation, own.norm)
    if len(model.spec.x.shape) > 1 and not model.objective.pair.supervised:
        yield {"op": "reshape", "shape": list(model.spec.x.shape)}


def _finish(model: Trained) -> Iterator[Step]:
    """The decoder's output -> the mean of the target, in its units."""
    x = model.spec.x
    means = _known(MEANS, "objective.likelihood", model.config.objective.likelihood)
    if model.objective.pair.supervised:
        yield from ({"op": op} for op in means)
        return
    groups = [list(range(*group)) for group in x.groups]  # one-hot columns
    others = {"columns": sorted(set(range(math.prod(x.shape))) - {j for group in groups for j in group})}
    yield from ({"op": op} | (others if groups else {}) for op in means)
    yield from ({"op": "softmax", "columns": group} for group in groups)
    if x.mean:
        yield {"op": "unstandardise", **STATISTICS}


def _dense(model: Trained, part: str, i: int, kernel: str) -> Step:
    own = model.params[part].get(f"layers_{i}", {})  # none if its kernel is shared and batch normalisation follows
    return {"op": "dense", "kernel": kernel} | ({"bias": f"{part}/layers_{i}/bias"} if "bias" in own else {})


def _activate(model: Trained, part: str, i: int, activation: str, norm: str) -> Iterator[Step]:
    """Norm and activation of a layer."""
    if norm == "layer":
        at = f"{part}/activations_{i}/LayerNorm_0"
        yield {"op": "layer_norm", "scale": f"{at}/scale", "bias": f"{at}/bias", "epsilon": 1e-6}
    elif norm == "batch":
        at = f"{part}/activations_{i}/BatchNorm_0"
        statistics = {"mean": f"batch_stats/{at}/mean", "variance": f"batch_stats/{at}/var"}
        yield {"op": "batch_norm", **statistics, "scale": f"{at}/scale", "bias": f"{at}/bias", "epsilon": 1e-5}
    if activation != "identity":
        yield {"op": activation}


def _known(table: dict[str, list[str]], field: str, value: str) -> list[str]:
    if value not in table:
        raise NoReferenceError(f"the reference has no {field} = {value!r}")
    return table[value]
