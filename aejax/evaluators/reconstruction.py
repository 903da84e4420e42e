"""How well a model reconstructs, beside PCA with the same code size."""

from collections.abc import Iterable

import numpy as np
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA


def fit_pca(train: np.ndarray, size: int) -> PCA:
    """PCA of examples [N, ...] with as many components as the code has units, about the training mean."""
    flat = train.reshape(len(train), -1)
    return PCA(min(size, *flat.shape), random_state=0).fit(flat)


def compresses(pca: PCA) -> bool:
    """Whether PCA leaves anything out: with a component for each entry of an example it copies."""
    return bool(pca.n_components_ < pca.n_features_in_)


def pca_reconstruct(pca: PCA, x: np.ndarray) -> np.ndarray:
    """Projection of examples [N, ...] on the components, in the shape of the examples."""
    return pca.inverse_transform(pca.transform(x.reshape(len(x), -1))).reshape(x.shape)


def pca_error(pca: PCA, parts: Iterable[np.ndarray]) -> float:
    """Mean over examples of ‖x − PCA's projection of x‖², summed over the event; the examples come in parts."""
    errors = [
        np.sum((part.astype(np.float64) - pca_reconstruct(pca, part)).reshape(len(part), -1) ** 2, axis=1)
        for part in parts
    ]
    return float(np.mean(np.concatenate(errors)))


def pca_angle(pca: PCA, decoder: dict) -> float | None:
    """Largest principal angle, in degrees, between PCA's subspace and the columns of a decoder of one
    linear layer (Baldi & Hornik, 1989: at the optimum they agree); None for any other decoder."""
    if set(decoder) != {"layers_0"} or "kernel" not in decoder["layers_0"]:
        return None
    kernel = np.asarray(decoder["layers_0"]["kernel"], np.float64)  # [code, D]
    if kernel.shape[0] > pca.n_components_:
        return None
    return float(np.degrees(subspace_angles(kernel.T, pca.components_.T.astype(np.float64)).max()))
