"""How well a model reconstructs, beside PCA with the same code size."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from aejax.data.lazy import chunks
from aejax.models import is_one_layer
from aejax.trained import Trained
from aejax.uses.base import Metric, Result, Skip
from aejax.uses.data import Data

if TYPE_CHECKING:
    from sklearn.decomposition import PCA


METRICS = {
    "pca_squared_error": Metric(
        "squared error of PCA with as many components as the code has units, or as the training examples allow",
        "",
        "lower",
    ),
    "pca_angle": Metric("largest angle between the decoder's and PCA's subspace", "degrees", "lower"),
}


def measure(trained: Trained, data: Data) -> Result:
    """`test/pca_squared_error`, and for a linear autoencoder `test/pca_angle`."""
    pair, numbers = trained.objective.pair, {}
    if pair.supervised or (pair.degrades and not pair.corrupts):
        raise Skip("the input is not the target, so PCA is not a baseline")
    pca = data.pca(trained)
    if not compresses(pca):
        raise Skip("PCA with a component for each entry of an example copies it")
    numbers["test/pca_squared_error"] = pca_error(pca, (_observed(trained, part) for part in chunks(data.test)))
    if is_one_layer(trained.config.model) and trained.config.model.code_activation == "identity":
        angle = pca_angle(pca, trained.params["decoder"])
        numbers |= {} if angle is None else {"test/pca_angle": angle}
    return Result(numbers)


def compresses(pca: "PCA") -> bool:
    """Whether PCA has fewer components than an example has entries; otherwise it copies."""
    return bool(pca.n_components_ < pca.n_features_in_)


def pca_reconstruct(pca: "PCA", x: np.ndarray) -> np.ndarray:
    """Projection of examples [N, ...] on the components, in the shape of the examples."""
    return pca.inverse_transform(pca.transform(x.reshape(len(x), -1))).reshape(x.shape)


def pca_error(pca: "PCA", parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mean over examples of ‖x − PCA's projection of x‖², summed over the event; the examples come in parts, each with
    its observed entries: a missing one, 0 in x, does not count."""
    errors = [
        np.sum(((x.astype(np.float64) - pca_reconstruct(pca, x)) * observed).reshape(len(x), -1) ** 2, axis=1)
        for x, observed in parts
    ]
    return float(np.mean(np.concatenate(errors)))


def _observed(trained: Trained, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Examples on the scale of the reconstructions, and where they are not NaN."""
    return trained.target(x), ~np.isnan(x)


def pca_angle(pca: "PCA", decoder: dict) -> float | None:
    """Largest principal angle, in degrees, between PCA's subspace and the columns of a decoder of one
    linear layer (Baldi & Hornik, 1989: at the optimum they agree); None for any other decoder."""
    from scipy.linalg import subspace_angles

    if set(decoder) != {"layers_0"} or "kernel" not in decoder["layers_0"]:
        return None
    kernel = np.asarray(decoder["layers_0"]["kernel"], np.float64)  # [code, D]
    if kernel.shape[0] > pca.n_components_:
        return None
    return float(np.degrees(subspace_angles(kernel.T, pca.components_.T.astype(np.float64)).max()))
