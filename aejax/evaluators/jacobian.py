"""The encoder's Jacobian ∂h/∂x on examples: its norm, its singular values, its tangent vectors."""

import jax
import jax.numpy as jnp
import numpy as np

from aejax import penalties
from aejax.data.lazy import Lazy
from aejax.predict import Trained


def norms(model: Trained, x: np.ndarray | Lazy) -> np.ndarray:
    """‖∂h/∂x‖_F of each example, [N]; x as the model takes it."""

    def norm(batch: jax.Array) -> jax.Array:
        example = model.example(batch)
        return jnp.sqrt(penalties.jacobian_norm2(model.context(example), example.input))

    return model.map(norm, x)


def svd(model: Trained, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Singular values [N, r] and right singular vectors [N, r, *shape of the input] of ∂h/∂x.

    The leading right vectors span the directions of the input to which the code responds: the
    estimated tangent plane of the data at x (Rifai et al., 2011).
    """
    encode = model.objective.encoder(model.params, model.variables)
    inputs = model.example(jnp.asarray(x)).input

    def decompose(example: jax.Array) -> tuple[jax.Array, jax.Array]:
        jacobian = penalties.jacobian(encode, example)  # [H, D]
        _, values, vectors = jnp.linalg.svd(jacobian, full_matrices=False)
        return values, vectors

    values, vectors = jax.lax.map(decompose, inputs)
    return np.asarray(values), np.asarray(vectors).reshape(*values.shape, *inputs.shape[1:])
