"""The Python interface: fit, load and inspect a model."""

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy import sparse

from aejax import archive, recipe, shown
from aejax import config as config_lib
from aejax import run as run_lib
from aejax.data import sources
from aejax.errors import InputError
from aejax.page import diagnosis, results
from aejax.storage import config_json, run_dir, saved
from aejax.storage import metrics as metrics_lib
from aejax.storage.checkpoint import Checkpoints
from aejax.trained import Trained
from aejax.training.loop import Progress
from aejax.uses.clustering import measure as clustering
from aejax.uses.clustering.clusters import Clusters
from aejax.uses.compression import codec
from aejax.uses.compression.quantizer import Quantizer
from aejax.uses.generation import measure as generation
from aejax.uses.generation.samplers import Sampler
from aejax.uses.manifold import dimension
from aejax.uses.manifold.dimension import Tangents
from aejax.uses.restoration import restored
from aejax.uses.retrieval.index import Index
from aejax.uses.sequence.writer import Writer

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.figure import Figure

    from aejax.uses.data import Data


class Model(Trained):
    """A trained model with the numbers of its run. See `Trained` for encode, decode, reconstruct, score, sample."""

    results: Mapping[str, float] = {}  # those of results.json
    metrics: Sequence[Mapping[str, Any]] = ()  # the lines of metrics.jsonl
    quantizer: Quantizer | None = None  # of the use compression, if it has run
    _data: "Data | None" = None

    @property
    def history(self) -> dict[str, np.ndarray]:
        """ "SPLIT/NAME" -> the values of that metric in the final training, "train/step" and "train/epoch" too."""
        return metrics_lib.history(self.metrics)

    @property
    def data(self) -> "Data":
        """The data of the run: kept by `fit`, else read again from the source; raises InputError."""
        if self._data is None:
            from aejax.uses.data import Data, with_input

            self._data = Data(self.experiment, with_input(self.config, self.spec, None))
        return self._data

    def figure(self, name: str) -> "Figure":
        """A figure of the run, such as "codes", "reconstructions" or "loss"; raises InputError.

        A matplotlib figure of its own, which a notebook shows and `savefig` writes.
        """
        from aejax.page import figures

        plots = figures.plots(self, self.data, self.metrics)
        drawn = plots[name]() if name in plots else None
        if drawn is None:
            raise InputError(f"figure {name!r}: must be one of {', '.join(plots)}")
        return drawn

    def index(self, x: Any, ids: Sequence[Any] | None = None, *, metric: str = "", bits: int = 0) -> Index:
        """The codes of a database x of raw examples, to search: `model.index(x).search(queries, k)`.

        ids: names of its rows, else 0, 1, ...; metric: cosine | euclidean, else config.uses.retrieval.metric; bits:
        length of signed codes, 0 = codes themselves. Raises InputError.
        """
        return Index(self, self.encode(x), ids, metric=metric or self.config.uses.retrieval.metric, bits=bits)

    def clusters(self, x: Any, number: int = 0, method: str = "", **fields: Any) -> Clusters:
        """Clusters of raw examples x [N, ...] by their codes: `model.clusters(x, 10).assign(new)`.

        `assign` gives the cluster [n] of each example and its probability [n]. method: kmeans | gmm | hdbscan | n2d |
        centres (those of config.method.name = 'clustering'), else the first of config.uses.clustering.methods. number:
        of clusters, else that of the classes; hdbscan and centres need none.
        fields: other fields of config.uses.clustering, such as scale="length". Raises InputError.
        """
        return clustering.of_examples(self, x, number, method, fields)

    def write(self, x: Any, *, beam: int = 1, alpha: float = 1.0) -> list[str]:
        """The sequence that the model writes for each raw example, such as its caption or its translation.

        beam: sequences that the search keeps, 1 = greedy; they are ranked by log p / n^alpha, for n tokens. A token of
        x that the training texts do not hold is read as unknown. Raises InputError.
        """
        return Writer(self, beam, alpha).write(self.take(x))[0]

    def restore(self, x: Any, mask: Any = None) -> np.ndarray:
        """Restored images [N, H, W, C] in [0, 1] of damaged ones; nothing is added to x [N, H, W(, C)].

        The model must denoise, inpaint or colourise. x: uint8, or floats in [0, 1]; for a denoising model also beyond.
        mask [N, H, W] or [H, W], for an inpainting model: 1 = hidden. Its visible pixels are kept, and hidden values of
        x are ignored. Raises InputError.
        """
        return restored.restore(self, x, mask)

    def tangents(self, x: Any, most: int = 0) -> Tangents:
        """The tangent planes at raw examples x [N, ...]: singular values [N, r] of the Jacobian of the reconstruction,
        and orthonormal directions [N, r, D], at most `most` of them (0: all).

        `model.tangents(x).dimension` estimates the intrinsic dimension. Raises InputError.
        """
        self.refuse_classifier("tangents")
        taken = self.take(x)
        if sparse.issparse(taken) or not len(taken):
            raise InputError("tangents: needs one or more images or rows of a dense table")
        taken = taken / np.float32(255) if taken.dtype == np.uint8 else np.nan_to_num(taken)
        return dimension.tangents(self, taken, most)

    def compress(self, x: Any, *, step: float = 0.0) -> bytes:
        """Raw examples x [N, ...] as the bytes of a compressed file.

        Without loss if the model is a variational autoencoder of binary examples and step is 0; else quantised codes,
        with a step of config.uses.compression.steps (0: the first), which needs a run with the use compression. Raises
        InputError.
        """
        return archive.compress(self, archive.of_array(self, x), self.quantizer, step, codec.BATCH)

    def decompress(self, content: bytes) -> np.ndarray:
        """The examples [N, ...] of `compress`, as given if it was without loss, else their reconstructions.

        Raises InputError for bytes that are truncated, altered, or of another model.
        """
        return archive.decompress(self, content, "the compressed data", self.quantizer)[0]

    def sampler(self, x: Any, name: str = "gmm", *, y: Any = None, **fields: Any) -> Sampler:
        """A density of the codes of raw examples x [N, ...]: `model.sampler(x, "gmm").sample(100)` are new examples.

        name: prior | gaussian | gmm | kde | flow. y [N]: labels, for `sample(100, label="3")`. fields: other fields of
        config.uses.generation, such as components=20. Raises InputError.
        """
        return generation.of_examples(self, x, name, y, fields)

    def save(self, path: str | Path) -> None:
        """Write a run directory that `load` and every command read; raises InputError.

        It holds parameters, config, results and metrics, but not the optimiser's state: to continue training, keep
        the original run directory.
        """
        path = Path(path).expanduser()
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"save {path}: exists; name a directory that is new or empty")
        try:
            path.mkdir(parents=True, exist_ok=True)
            step = int(self.metrics[-1]["step"]) if self.metrics else 0
            state = dataclasses.replace(self.experiment.init(), params=self.params, variables=self.variables)
            state = dataclasses.replace(state, step=jnp.asarray(step, jnp.int32), opt_state=None, ema=None)
            with Checkpoints(path / run_dir.CHECKPOINTS / "last") as checkpoints:
                checkpoints.save(step, state, dataclasses.asdict(Progress()))
            lines = "".join(json.dumps(line) + "\n" for line in self.metrics)
            run_dir.write(path / run_dir.METRICS, lines)
            run_dir.write(path / run_dir.DATA, self.spec.to_json())
            run_dir.write(path / run_dir.ENVIRONMENT, json.dumps(run_dir.environment(), indent=2) + "\n")
            run_dir.write(path / run_dir.SAVED, "")
            run_dir.write_results(path, self.results)
            run_dir.write(path / run_dir.CONFIG, config_json.to_json(self.config))  # last: now it is a run directory
        except OSError as error:
            raise InputError(f"save {path}: cannot be written: {error.strerror}") from error

    def rows(self) -> dict[str, str]:
        """The rows of the model's repr: name -> text."""
        shape = "x".join(map(str, self.code_shape))
        numbers = {name: results.number(v) for name, v in self.results.items() if name.startswith("test/")}
        notes = diagnosis.notes(self.config, self.results, self.metrics)
        own = {"data": self.spec.describe(), "code": shape, "parameters": f"{self.parameters:,}"}
        return own | numbers | ({"note": "; ".join(notes)} if notes else {})

    @property
    def title(self) -> str:
        return f"{self.config.name or self.config.model.name}, a trained model"

    def __repr__(self) -> str:
        return shown.text(self.title, self.rows())

    def _repr_html_(self) -> str:
        return shown.table(self.title, self.rows())

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"results": self.results, "metrics": self.metrics, "quantizer": self.quantizer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.results, self.metrics, self.quantizer = (state[name] for name in ("results", "metrics", "quantizer"))


def load(workdir: str | Path, checkpoint: str = "last", *, member: int | str | None = None) -> Model:
    """The model of a run directory; checkpoint "last", or "best" by validation loss. Raises InputError.

    member: of a population, the number of a member, or "best": the one with the smallest validation loss.
    """
    path = run_dir.member(workdir, member)
    trained = saved.load(path, checkpoint)
    model = Model(trained.experiment, trained.params, trained.variables)
    model.quantizer = saved.load_quantizer(path, trained)
    model.results, model.metrics = run_dir.read_results(path) or {}, metrics_lib.read(path)
    return model


def fit(
    x: Any,
    config: ConfigDict | None = None,
    *,
    y: Any = None,
    workdir: str | Path | None = None,
    **fields: Any,
) -> Model:
    """Train on data in memory; y [N] are labels for figures and uses.

    x: images [N, H, W(, C)], a table [N, D], a data frame, a sparse matrix, or a list of texts. Without a config
    `recipe.suited` chooses one for the kind of data. Without a workdir nothing is kept on disk. `fields` of the config
    are set on top, with a double underscore for each dot: `fit(frame, data__missing="mask", train__steps=500)`. Raises
    InputError, NonFiniteError.
    """
    fields["data__source"] = sources.ARRAY
    base = config_lib.changed(config_lib.default() if config is None else config, fields)
    data = sources.from_array(x, base, y)
    config = config_lib.changed(recipe.suited(data.spec), fields) if config is None else base
    with contextlib.ExitStack() as stack:
        path = workdir or stack.enter_context(tempfile.TemporaryDirectory())
        run_lib.run(config, path, data, temporary=workdir is None)
        model = load(path)
    from aejax.uses.data import Data

    model._data = Data(model.experiment, data)
    return model
