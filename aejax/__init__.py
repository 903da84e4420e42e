"""aejax: autoencoders in JAX and Flax."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Model", "fit", "load"]


def __getattr__(name: str) -> Any:
    # Imported on demand: `aejax.errors` should not need jax.
    if name in __all__:
        from aejax import model

        return getattr(model, name)
    raise AttributeError(f"module 'aejax' has no attribute {name!r}")
