"""The data that uses measure on."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from aejax.data import sources
from aejax.data.bags import dense
from aejax.data.dataset import Arrays, Dataset
from aejax.data.lazy import Lazy
from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.experiment import Experiment
from aejax.pairs import splits
from aejax.trained import Trained
from aejax.uses.base import Skip

if TYPE_CHECKING:
    from sklearn.decomposition import PCA


class Data:
    """A dataset as stored, and its examples as the model sees them (binarised if the config says so)."""

    def __init__(self, experiment: Experiment, dataset: Dataset):
        self.dataset, self.spec, self._experiment = dataset, dataset.spec, experiment
        self._pca: dict[int, PCA] = {}
        # Gives the classifier of a run directory, of "" the one that is trained on these data; see `uses.runner`.
        self.classifier: Callable[[str], Trained] | None = None

    @functools.cached_property
    def train(self) -> np.ndarray:
        """Training examples [N, ...] as float32, dense; a sample of them if they are streamed."""
        return splits.training(self._experiment.config, self._experiment.evaluation_key, self.dataset)

    @functools.cached_property
    def test(self) -> Lazy:
        """Test examples [N, ...] as float32, dense."""
        return splits.test(self._experiment.config, self._experiment.evaluation_key, self.dataset)

    def arrays(self, split: str) -> Arrays:
        """A split as stored: neither corrupted nor binarised."""
        arrays: Arrays = getattr(self.dataset, split)
        return arrays

    def rows(self, split: str, rows: np.ndarray) -> np.ndarray:
        """These rows of a split as the model sees them, dense (binarised if the config says so)."""
        x = dense(self.arrays(split)["x"][rows])
        if self._experiment.config.data.binarize != "none":
            x = splits.drawn({"x": x}, self._experiment.evaluation_key)["x"]
        return x

    def labels(self, split: str) -> np.ndarray | None:
        """Labels [N] of a split, -1 = none; None if the data have no labels."""
        labels: np.ndarray | None = self.arrays(split).get("y")
        return labels

    def require_labels(self, splits: Sequence[str], classes: int = 2) -> None:
        """Raise Skip unless each of these splits has labels of at least `classes` classes."""
        for split in splits:
            labels = self.labels(split)
            found = 0 if labels is None else len(np.unique(labels[labels >= 0]))
            if found < classes:
                raise Skip(f"needs labels of at least {classes} classes in the {split} split, found {found}")

    def pca(self, trained: Trained, size: int = 0) -> "PCA":
        """PCA of the training targets with `size` components (0: as the code has units), or as the data allow."""
        from sklearn.decomposition import PCA  # takes a second: imported after training

        size = size or int(np.prod(trained.code_shape))
        if size not in self._pca:
            flat = trained.target(self.train).reshape(len(self.train), -1)
            self._pca[size] = PCA(min(size, *flat.shape), random_state=0).fit(flat)
        return self._pca[size]


def with_input(config: ConfigDict, spec: Spec, source: str | None) -> Dataset:
    """The run's dataset; if `source` is given, with its test split instead. Raises InputError.

    A source without a test split gives all its rows. A label that the run does not know becomes -1, no label.
    """
    if config.data.source == sources.ARRAY:
        allowed = "was an array in memory, which is not stored: uses need the training data"
        raise FieldError("data.source", config.data.source, allowed)
    own = sources.load(config)
    if own.spec.digest != spec.digest:
        raise FieldError("data.source", config.data.source, "has changed since the run was trained")
    if source is None:
        return own
    config = ConfigDict(config.to_dict())
    config.data.source = source
    if own.parts:
        config.data.window = spec.x.shape[0]
    raw = sources.raw(config)
    end = "_test" if "x_test" in raw else ""
    x, y = raw[f"x{end}"], raw.get(f"y{end}")
    if spec.x.columns and not spec.x.text and "columns" in raw:  # found by their names, as predict does
        missing = [name for name in spec.x.columns if name not in raw["columns"]]
        if missing:
            raise FieldError("data.source", source, f"has no column {missing[0]!r}")
        x = np.asarray(x)[..., [list(raw["columns"]).index(name) for name in spec.x.columns]]
        for name, known in spec.x.categories.items():  # the index in the run's list, NaN for a text it does not know
            found, j = raw["categories"].get(name, ()), spec.x.columns.index(name)
            indices = np.array([*(known.index(text) if text in known else np.nan for text in found), np.nan])
            x[:, j] = indices.take(np.nan_to_num(x[:, j], nan=len(found)).astype(int), mode="clip")
    test: Arrays = {"x": spec.x.apply(np.asarray(x) if isinstance(x, Lazy) else x)}
    if spec.x.kind == "image" and test["x"].dtype == np.uint8 and spec.x.dtype != "uint8":
        test["x"] = test["x"] / np.float32(255)  # on the scale of the run's examples
    if y is not None and spec.classes:
        numbers = {name: i for i, name in enumerate(spec.classes)}
        test["y"] = np.array([numbers.get(str(label), -1) for label in np.asarray(y).tolist()], np.int32)
    elif spec.classes:
        test["y"] = np.full(test["x"].shape[0], -1, np.int32)
    parts = {**own.parts, **({"test": raw["parts"]["test"]} if "parts" in raw else {})}
    return dataclasses.replace(own, test=test, parts=parts, spec=dataclasses.replace(own.spec, test=test["x"].shape[0]))
