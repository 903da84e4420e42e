"""A function of a trained model as ONNX, converted by jax2onnx and compared with the model."""

import contextlib
import logging
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from aejax.errors import InputError

NAMES = {"input": "input", "output": "output"}  # in the file
TOLERANCE = 1e-4  # relative, and as a fraction of the largest value: both compute in float32
ROWS = 3  # in the comparison


def convert(function: Callable[[jax.Array], jax.Array], argument: jax.ShapeDtypeStruct) -> bytes:
    """The ONNX model of a function of one array, whose first dimension may be symbolic; raises InputError.

    Its input is named "input", its output "output". onnxruntime runs it on the CPU on random numbers; the results must
    match those of `function`.
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
            # Traced first, since the converter's replacements of jax.numpy functions refuse a symbolic dimension.
            program = jaxpr_as_fun(jax.make_jaxpr(function)(argument))
            names = {f"{kind}_names": [name] for kind, name in NAMES.items()}
            content: bytes = jax2onnx.to_onnx(lambda x: program(x)[0], [argument], **names).SerializeToString()
            session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
            (made,) = session.run(None, {NAMES["input"]: x})
        except Exception as error:  # the converter may raise anything
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise InputError(
                f"--format=onnx: jax2onnx cannot convert this model; use --format=stablehlo ({reason})"
            ) from error
    expected = np.asarray(jax.jit(function)(x))
    largest = np.abs(expected, where=np.isfinite(expected), out=np.zeros_like(expected)).max()
    if made.shape != expected.shape or not np.allclose(made, expected, TOLERANCE, TOLERANCE * largest, equal_nan=True):
        raise InputError("--format=onnx: jax2onnx's model gives other results; use --format=stablehlo")
    return content


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Silence the log of the converter, which warns about parts that these models do not have."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
