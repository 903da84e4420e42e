"""aejax: autoencoders in JAX and Flax."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Trained", "fit", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # imported on demand: `aejax.errors` should not need jax
        from aejax import predict

        return getattr(predict, name)
    raise AttributeError(f"module 'aejax' has no attribute {name!r}")
