"""aejax: autoencoders in JAX and Flax."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Trained", "fit", "load"]


def __getattr__(name: str) -> Any:
    # Imported on demand: `aejax.errors` should not need jax.
    if name == "Trained":
        from aejax.trained import Trained

        return Trained
    if name == "load":
        from aejax.storage.saved import load

        return load
    if name == "fit":
        from aejax.run import fit

        return fit
    raise AttributeError(f"module 'aejax' has no attribute {name!r}")
