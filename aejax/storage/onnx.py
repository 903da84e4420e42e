"""A function of a trained model as ONNX, by the converter jax2onnx, compared with the model before it is handed on."""

import contextlib
import logging
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from aejax.errors import InputError

NAMES = {"input": "input", "output": "output"}  # in the file
TOLERANCE = 1e-4  # relative, and as a fraction of the largest value: both compute in float32
ROWS = 3  # of the comparison


def convert(function: Callable[[jax.Array], jax.Array], argument: jax.ShapeDtypeStruct) -> bytes:
    """The ONNX model of `function` of one array, whose first dimension may be free; raises InputError.

    Its input is called "input", its output "output". onnxruntime runs it on the CPU on random numbers, and the results
    must be those of `function`.
    """
    high = 256 if argument.dtype == np.uint8 else 1
    x = np.random.default_rng(0).uniform(0, high, (ROWS, *argument.shape[1:])).astype(argument.dtype)
    with _silenced():
        try:
            import jax2onnx
            import onnxruntime
        except ImportError as error:
            raise InputError(
                f"--format=onnx: needs jax2onnx and onnxruntime: pip install 'aejax[onnx]' ({error})"
            ) from error
        try:
            # The converter replaces functions of jax.numpy while it traces, and those refuse a free dimension.
            program = jaxpr_as_fun(jax.make_jaxpr(function)(argument))
            names = {f"{kind}_names": [name] for kind, name in NAMES.items()}
            content: bytes = jax2onnx.to_onnx(lambda x: program(x)[0], [argument], **names).SerializeToString()
            session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
            (made,) = session.run(None, {NAMES["input"]: x})
        except Exception as error:  # of any kind: another project's converter
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise InputError(
                f"--format=onnx: jax2onnx cannot convert this model, take --format=stablehlo ({reason})"
            ) from error
    expected = np.asarray(jax.jit(function)(x))
    largest = np.abs(expected, where=np.isfinite(expected), out=np.zeros_like(expected)).max()
    if made.shape != expected.shape or not np.allclose(made, expected, TOLERANCE, TOLERANCE * largest, equal_nan=True):
        raise InputError("--format=onnx: jax2onnx converts this model to another function, take --format=stablehlo")
    return content


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Without the log of the converter, which warns of parts that a model here does not have."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
