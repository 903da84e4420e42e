"""The encoder's Jacobian ∂h/∂x on test examples: its norm, its singular values, its tangent vectors."""

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from aejax.data.lazy import Lazy
from aejax.fields import Field, at_least
from aejax.losses import jacobian
from aejax.trained import Trained
from aejax.uses.base import Draw, Metric, Result
from aejax.uses.data import Data

METRICS = {"jacobian_norm": Metric("mean Frobenius norm of the encoder's Jacobian", better="lower")}


def measure(
    trained: Trained,
    data: Data,
    *,
    examples: Annotated[int, Field("test images whose Jacobian is decomposed for the figures", at_least(1))] = 50,
) -> Result:
    """`test/jacobian_norm`: mean of ‖∂h/∂x‖_F over the test split."""
    numbers = {"test/jacobian_norm": float(norms(trained, data.test).mean())}
    if data.spec.x.kind != "image":
        return Result(numbers)
    from aejax.uses.jacobian.plots import spectrum, tangents, translation  # here, since matplotlib takes a second

    seen = np.asarray(data.test[:examples])
    values, vectors = svd(trained, seen)
    few = min(trained.config.figures.examples, len(seen))
    figures: dict[str, Draw] = {
        "singular_values": lambda: spectrum(values),
        "tangents": lambda: tangents(seen[:few], vectors[:few, ..., : seen.shape[-1]]),
        "translation": lambda: translation(seen[0]),
    }
    return Result(numbers, figures=figures)


def norms(model: Trained, x: np.ndarray | Lazy) -> np.ndarray:
    """‖∂h/∂x‖_F of each example, [N]; x as the model takes it."""

    def norm(batch: jax.Array) -> jax.Array:
        example = model.example(batch)
        return jnp.sqrt(jacobian.jacobian_norm2(model.forward(example), example.input))

    return model.map(norm, x)


def svd(model: Trained, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Singular values [N, r] and right singular vectors [N, r, *shape of the input] of ∂h/∂x.

    The leading right vectors span the directions of the input to which the code responds: the
    estimated tangent plane of the data at x (Rifai et al., 2011).
    """
    encode = model.objective.encoder(model.params, model.variables)
    inputs = model.example(jnp.asarray(x)).input

    def decompose(example: jax.Array) -> tuple[jax.Array, jax.Array]:
        matrix = jacobian.jacobian(encode, example)  # [H, D]
        _, values, vectors = jnp.linalg.svd(matrix, full_matrices=False)
        return values, vectors

    values, vectors = jax.lax.map(decompose, inputs)
    return np.asarray(values), np.asarray(vectors).reshape(*values.shape, *inputs.shape[1:])
