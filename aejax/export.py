"""Write a trained model as a file that runs without aejax.

  python -m aejax.export --workdir=DIR --what=encode|decode|reconstruct|score|classify|anomalies|write --output=FILE
      [--checkpoint=last|best] [--format=stablehlo|onnx]
  python -m aejax.export --workdir=DIR --format=npz --output=FILE.npz

FILE is StableHLO as written by jax.export, for CPU, CUDA and TPU and any number of rows. It holds the parameters and
the preprocessing, and takes raw examples. FILE.json beside it holds the shapes, dtypes and units of input and output,
and the versions; of --what=anomalies also the threshold, which FILE does not apply: it gives scores. FILE needs only
the packages jax and flatbuffers:

  import jax
  function = jax.jit(jax.export.deserialize(open("FILE", "rb").read()).call)
  codes = function(images)

--format=onnx writes the same function as ONNX, with one input "input" and one output "output". It needs
pip install 'aejax[onnx]' and converts multilayer perceptrons with an identity or gaussian code.

--format=npz writes all arrays of the model by name. FILE.npz.json beside it holds their shapes, the units and, for a
multilayer perceptron, the steps from raw examples to codes and outputs. FILE.py runs these steps with NumPy alone:

  from FILE import Model
  codes = Model("FILE.npz").encode(images)
"""

import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import export as jax_export

from aejax import cli
from aejax.data import tokens
from aejax.data.spec import PIXELS, Field
from aejax.errors import InputError
from aejax.storage import onnx, reference, run_dir, saved, weights
from aejax.trained import Trained
from aejax.uses.anomaly.detector import Detector
from aejax.uses.sequence.writer import Writer

FORMAT = 1  # of the sidecar
PLATFORMS = ("cpu", "cuda", "tpu")
BATCH = "batch"  # the free dimension
HEAD = 24  # leading bytes that identify a file of an earlier export
FORMATS = ("stablehlo", "onnx", "npz")


def export(model: Trained, what: str, detector: Detector | None = None) -> bytes:
    """A method of a trained model, with its parameters, as a serialised `jax.export.Exported`.

    `what`: encode (examples -> codes) | decode (codes -> reconstruction means) | reconstruct (examples ->
    reconstruction means) | score (examples -> scores) | classify (examples -> probabilities of the labels, classifiers
    only) | anomalies (examples -> scores of the detector; its threshold is not applied) | write (examples -> numbers of
    the tokens of their captions, greedy; the sidecar names the tokens). Examples are raw: images as in
    the run's data (uint8, or floats in [0, 1]), tables in their own units, texts as counts of the run's words. Raises
    InputError.
    """
    function, argument = _traceable(model, what, detector)
    return bytes(jax_export.export(jax.jit(function), platforms=PLATFORMS)(argument).serialize())


def _traceable(
    model: Trained, what: str, detector: Detector | None = None
) -> tuple[Callable[[jax.Array], jax.Array], jax.ShapeDtypeStruct]:
    """The method as a pure function, and its argument of any number of rows."""
    function, shape, dtype = _function(model, what, detector)
    return function, jax.ShapeDtypeStruct(jax_export.symbolic_shape(", ".join(map(str, (BATCH, *shape)))), dtype)


def describe(model: Trained, what: str, detector: Detector | None = None) -> dict[str, Any]:
    """Shapes, dtypes and units of the input and output of `export(model, what)`, and the versions."""
    function, shape, dtype = _function(model, what, detector)
    given = jax.eval_shape(function, jax.ShapeDtypeStruct((1, *shape), dtype))
    codes, examples = {"name": "codes", "unit": "of the code"}, {"name": "examples", "unit": _unit(model.spec.x)}
    means = {"name": "reconstruction means", "unit": _mean_unit(model)}
    labels: dict[str, Any] = {
        "name": "probabilities of the labels",
        "unit": "[0, 1]",
        "classes": list(model.spec.classes),
    }
    kinds = {"encode": codes, "decode": means, "reconstruct": means, "score": _score(model), "classify": labels}
    if what == "write":
        field = Writer(model).field
        about = f"{field.level}; {tokens.END} ends a sequence, {tokens.PAD} comes after it"
        kinds["write"] = {"name": "numbers of the tokens", "unit": about, "vocabulary": list(field.classes)}
    if detector:
        kinds["anomalies"] = {
            "name": "anomaly scores of the detector, higher is more anomalous",
            "unit": "deviations of the training scores",
            "threshold": detector.threshold,
            "threshold is": detector.about,
        }
    x = model.spec.x
    columns: dict[str, Any] = {"columns": list(x.columns)} if x.columns else {}
    if x.categories:
        columns["categories"] = {name: list(values) for name, values in x.categories.items()}
        columns["category"] = "goes in as its index in the list, from 0"
    if x.kind == "tokens":
        columns["vocabulary"] = list(x.classes)
    if x.columns and x.missing != "error":
        columns["empty cell"] = "goes in as NaN"
    outputs = {"columns": list(x.outputs)} if x.outputs else {}
    takes, gives = codes if what == "decode" else examples, kinds[what]
    return {
        "format": FORMAT,
        "what": what,
        "input": takes | _shape(shape, dtype) | (columns if takes is examples else {}),
        "output": gives | _shape(given.shape[1:], given.dtype) | (outputs if gives is means else {}),
        "packages": run_dir.environment()["packages"],
        "data": model.spec.digest,
    }


def _function(
    model: Trained, what: str, detector: Detector | None = None
) -> tuple[Callable[[jax.Array], jax.Array], tuple[int, ...], Any]:
    """The method as a pure function of a raw batch, with shape and dtype of one row."""
    spec = model.spec
    limits = np.finfo(np.float32)
    if any(
        abs(mean) > limits.max or not limits.tiny <= d <= limits.max
        for mean, d in zip(spec.x.mean, spec.x.deviation, strict=True)
    ):
        raise InputError("export: a column's mean or deviation is beyond float32; scale the table before training")
    # float32 for tables too: by default JAX computes in float32 and converts float64 arrays.
    shape = (spec.x.width,) if spec.x.kind == "table" else spec.x.shape
    examples = (shape, np.dtype(spec.x.dtype if spec.x.dtype in ("uint8", "int32") else "float32"))
    scale, unscale = functools.partial(_scale, spec.x), functools.partial(_unscale, spec.x)
    if what in ("score", "reconstruct"):
        model.refuse_classifier(what)
    if what == "classify":
        model.check_classifier()
        return lambda x: model.pure_reconstruct(scale(x)), *examples
    if what == "write":
        return lambda x: Writer(model).pure(scale(x))[0], *examples
    if what == "anomalies" and detector:
        return lambda x: detector.pure(scale(x)), *examples
    if what == "encode":
        return lambda x: model.pure_encode(scale(x)), *examples
    if what == "score":
        return lambda x: model.pure_score(scale(x)), *examples
    if what == "reconstruct":
        return lambda x: unscale(model.pure_reconstruct(scale(x))), *examples
    if what == "decode":
        model.check_decodable()
        return lambda z: unscale(model.pure_decode(z)), model.code_shape, np.dtype("float32")
    raise InputError(f"what = {what!r}: must be encode, decode, reconstruct, score, classify, anomalies or write")


def _scale(field: Field, x: jax.Array) -> jax.Array:
    """Raw rows -> the model's examples: the run's weighting of word counts, else `Field.scale`.

    In float32, as exact as in float64: the mean is a sum of two float32 numbers. If x is close to it, as when the
    mean is much larger than the deviation, x minus the first number is exact.
    """
    if field.text == "binary":
        return (x > 0).astype(x.dtype)
    if field.text == "tfidf":  # `bags.count`
        weighted = x * np.asarray(field.idf, np.float32)[None]
        length = jnp.sqrt(jnp.sum(jnp.square(weighted), axis=1, keepdims=True))
        return weighted / jnp.where(length > 0, length, 1)
    x = _expand(field, x)
    if not field.mean:
        return x
    high, low, deviation = _split(field, x.ndim)
    # Without the barrier the compiler adds the two numbers up first.
    return (jax.lax.optimization_barrier(x - high) - low) / deviation


def _expand(field: Field, x: jax.Array) -> jax.Array:
    """`Field.expand`; a categorical column holds category indices, and NaN is an empty cell."""
    if not (field.categories or field.fill or field.indicators):
        return x
    empty = jnp.isnan(x)
    filled = jnp.where(empty, np.asarray(field.fill, np.float32)[None], x) if field.fill else x
    parts = []
    for j, name in enumerate(field.columns or range(field.width)):
        column = filled[:, j : j + 1]
        if name in field.categories:
            numbers = np.arange(len(field.categories[str(name)]), dtype=np.float32)[None]
            column = jnp.where(jnp.isnan(column), jnp.nan, (column == numbers).astype(x.dtype))
        parts.append(column)
    return jnp.concatenate([*parts, empty[:, list(field.indicators)].astype(x.dtype)], axis=1)


def _unscale(field: Field, x: jax.Array) -> jax.Array:
    """`Field.unscale` in float32."""
    if not field.mean:
        return x
    high, low, deviation = _split(field, x.ndim)
    return jax.lax.optimization_barrier(x * deviation + low) + high


def _split(field: Field, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The means as two float32 arrays [..., n] with this sum, and the deviations, for examples of a rank."""
    exact, deviation = (np.reshape(values, (*[1] * (rank - 1), -1)) for values in (field.mean, field.deviation))
    high = exact.astype(np.float32)
    return high, (exact - high).astype(np.float32), deviation.astype(np.float32)


def _shape(shape: tuple[int, ...], dtype: Any) -> dict[str, Any]:
    return {"shape": [BATCH, *shape], "dtype": np.dtype(dtype).name}


def _unit(field: Field) -> str:
    if field.kind == "tokens":
        return f"numbers of {field.level}; {tokens.END} ends a sequence, {tokens.PAD} comes after it"
    if field.kind in PIXELS:
        return "0 to 255" if field.dtype == "uint8" else "[0, 1]"
    if field.kind == "series":
        return "of the series' channels"
    return "counts of the words in columns" if field.text else "of the table's columns"


def _mean_unit(model: Trained) -> str:
    if model.spec.x.kind in PIXELS:
        return "[0, 1]"
    if model.config.objective.likelihood == "categorical":
        return "shares of a row's sum"
    return {"tfidf": "tf-idf", "binary": "[0, 1]"}.get(model.spec.x.text, _unit(model.spec.x))


def _score(model: Trained) -> dict[str, str]:
    nats = model.objective.likelihood.density
    terms = "reconstruction + KL" if "kl" in model.objective.penalties else "reconstruction"
    return {"name": f"anomaly scores ({terms}), higher is more anomalous", "unit": "nats" if nats else "squared error"}


def write(
    model: Trained, what: str | None, path: Path, format: str = "stablehlo", detector: Detector | None = None
) -> list[Path]:
    """Write an export and the files beside it; returns their paths. Raises InputError before anything is written.

    `what` as in `export`; None for npz, which holds the whole model.
    """
    if (what is None) != (format == "npz"):
        one = f"--what={what}: leave it out with --format=npz, which holds the whole model"
        raise InputError(one if what else f"--what=... is needed with --format={format}; --help shows more")
    files = _npz(model, path) if what is None else _one_function(model, what, path, format, detector)
    for file, content in files.items():
        run_dir.write_output(file, content)
    return list(files)


def _one_function(model: Trained, what: str, path: Path, format: str, detector: Detector | None) -> dict[Path, bytes]:
    own: dict[str, Any]
    if format == "onnx":
        content, own = onnx.convert(*_traceable(model, what, detector)), {"names": onnx.NAMES}
    else:
        version = jax_export.maximum_supported_calling_convention_version
        content, own = export(model, what, detector), {"platforms": list(PLATFORMS), "calling_convention": version}
    return {path: content, path.with_name(path.name + ".json"): _json(describe(model, what, detector) | own)}


def _npz(model: Trained, path: Path) -> dict[Path, bytes]:
    """The arrays, their description, and the NumPy code if it can run the model."""
    if path.suffix != ".npz":
        raise InputError(f"--output={path}: must end in .npz with --format=npz")
    arrays: dict[str, Any] = weights.arrays(model)
    code = path.with_suffix(".py")
    steps, note = None, ""
    try:
        steps = weights.steps(model)
    except weights.NoReferenceError as error:
        note = f"none: {error}"
    encode = describe(model, "encode")
    last = describe(model, {"y": "classify", "caption": "write"}.get(model.objective.model.output, "reconstruct"))
    about = {
        "format": FORMAT,
        "input": encode["input"],
        "codes": encode["output"],
        "output": last["output"],
        "dtype": model.config.model.dtype,  # of the model's arithmetic
        "reference": note or code.name,
        "steps": steps,
        "arrays": {name: {"shape": array.shape, "dtype": array.dtype.name} for name, array in arrays.items()},
        "packages": encode["packages"],
        "data": encode["data"],
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    beside = {path.with_name(path.name + ".json"): _json(about)}
    beside |= {} if note else {code: Path(reference.__file__).read_bytes()}
    for file, content in beside.items():
        if file.exists() and file.read_bytes()[:HEAD] != content[:HEAD]:
            raise InputError(f"--output={path}: would replace {file}, which is not from an export; name another file")
    return {path: buffer.getvalue()} | beside


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def command() -> None:
    workdir = flags.DEFINE_string("workdir", None, "run directory", required=True)
    kinds = ["encode", "decode", "reconstruct", "score", "classify", "anomalies", "write"]
    what = flags.DEFINE_enum("what", None, kinds, "function to export; not with --format=npz, which has all")
    output = flags.DEFINE_string("output", None, "file to write; others are written beside it", required=True)
    checkpoint = flags.DEFINE_enum("checkpoint", "last", ["last", "best"], "last, or best by validation loss")
    format = flags.DEFINE_enum("format", "stablehlo", FORMATS, "file format; npz: arrays, and code in NumPy")

    def main() -> None:
        if what.value == "anomalies":
            models = saved.load_all(workdir.value, checkpoint.value)
            model, detector = models[0], saved.load_detector(workdir.value, models, "anomalies")[0]
        else:
            model, detector = saved.load(workdir.value, checkpoint.value), None
        files = write(model, what.value, Path(output.value), format.value, detector)
        print(", ".join(map(str, files)))
        if format.value == "npz" and len(files) == 2:
            print(f"code in NumPy: {json.loads(files[1].read_text())['reference']}")

    cli.run(main)


if __name__ == "__main__":
    command()
