"""Use of a trained model: load(workdir), fit(x, config), and a command that applies a run to new data.

  python -m aejax.predict --workdir=DIR --input=SOURCE --output=FILE --what=codes|reconstructions|scores
  python -m aejax.predict --workdir=DIR --n=NUMBER --output=FILE --what=samples

SOURCE is written as the data source of a config, such as csv:new.csv; FILE ends in .npz, .npy, .csv or .parquet.
The rows of the input keep their order, and are read and written a batch at a time, so that there may be more of
them than fit in memory (of parquet, csv, npy, images, tfds and text). A table's columns are found by their names.

  python -m aejax.predict --workdir=runs/ae-table-1b2c3d4e --input=parquet:new.parquet --output=scores.csv --what=scores
"""

import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from aejax import objective, pairs, penalties, prng, run_dir, steps
from aejax.data import dataset, feed, sources
from aejax.data.bags import dense
from aejax.errors import InputError
from aejax.models import Code, Given

BATCH = 1024  # rows in one dispatch


class Trained:
    """A trained autoencoder on NumPy arrays of any number of rows.

    Inputs are raw: uint8 images or floats in [0, 1], [N, H, W(, C)]; tables [N, D] in their own units, sparse
    ones as scipy.sparse; documents as a list of strings, or their counts [N, words].
    Nothing is corrupted here. A model that colours takes grey images as well; a conditional one is given
    the visible part of each image and hides the rest by the mask of its config.
    """

    def __init__(self, config: ConfigDict, spec: dataset.Spec, state: steps.State):
        self.config, self.spec = config, spec
        self.params = state.params if state.ema is None else state.ema
        self.variables = state.variables
        self.objective = objective.build(config, steps.build_model(config, spec))
        self._compiled: dict[Callable[..., Any], Callable[..., Any]] = {}

    def encode(self, x: Any) -> np.ndarray:
        """Codes z [N, code]; the mean where the bottleneck samples."""
        return self.map(self.pure_encode, self.take(x))

    def decode(self, z: Any) -> np.ndarray:
        """Reconstruction means [N, ...] of codes [N, code]: images in [0, 1], tables in their own units."""
        self.check_decodable()
        z = np.asarray(z, np.float32)
        shape = self.code_shape
        if z.shape[1:] != shape:
            raise InputError(f"codes: shape {z.shape} must be (rows, {', '.join(map(str, shape))})")
        return self.spec.unscale(self.map(self.pure_decode, z))

    def reconstruct(self, x: Any) -> np.ndarray:
        """Reconstruction means [N, ...] of examples, in their units (images in [0, 1])."""
        self.refuse_classifier("reconstruct")
        return self.spec.unscale(self.map(self.pure_reconstruct, self.take(x)))

    def classify(self, x: Any) -> np.ndarray:
        """Probabilities [N, classes] of the labels, in the order of spec.classes; a classifier only."""
        self.check_classifier()
        return self.map(self.pure_reconstruct, self.take(x))

    def score(self, x: Any) -> np.ndarray:
        """Anomaly scores [N]: −log p(x | r) (+ KL, for a gaussian bottleneck) at the clean input and the
        mean code, no penalties. Higher is more anomalous. Units: the likelihood's (nats, or a squared error).
        A conditional model scores the hidden part given the visible one.
        """
        self.refuse_classifier("score")
        return self.map(self.pure_score, self.take(x))

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """Means of n examples decoded from the prior N(0, I), [n, ...]; a gaussian bottleneck only."""
        return self.decode(self.prior(n, seed))

    def prior(self, n: int, seed: int = 0) -> np.ndarray:
        """n codes from the prior N(0, I), [n, code]; a gaussian bottleneck only."""
        if self.objective.pair.conditional:
            raise InputError("sample: this model's prior is conditional; complete(x, n=...) samples the hidden part")
        if self.config.model.bottleneck.name != "gaussian":
            raise InputError(
                "sample: needs model.bottleneck.name = gaussian, whose codes have a prior; "
                "otherwise decode codes of your choice, such as those of encode"
            )
        if n < 0:
            raise InputError(f"sample: n = {n}: must be at least 0")
        return np.random.default_rng(seed).standard_normal((n, *self.code_shape), np.float32)

    def complete(self, x: Any, hidden: Any = None, *, n: int = 1, seed: int = 0) -> np.ndarray:
        """Images [N, H, W, C] with the part `hidden` [N, H, W] (1 = hidden) filled in; a model of inpainting only.

        Returns [n, N, H, W, C]: what is visible is kept, the values of x under `hidden` play no part, and
        the rest is the mean of the output, for a conditional model at n codes from the prior given what is
        visible; any other model has one answer. Without `hidden` the mask is the config's, drawn by `seed`.
        """
        pair = self.objective.pair
        if pair.name != "inpaint":
            raise InputError("complete: needs a model of config.pair.name = 'inpaint'")
        images, key = jnp.asarray(self.take(x)), prng.key(seed)
        images = pairs.scale({"x": images})["x"]
        if hidden is None:
            hidden = pair(key, {"x": images}).hidden
        else:
            hidden = np.asarray(hidden, np.float32)
            if hidden.shape != images.shape[:3] or not np.isin(hidden, (0, 1)).all():
                raise InputError(f"hidden: must be 0 or 1 in shape {images.shape[:3]}, found shape {hidden.shape}")
            hidden = jnp.asarray(hidden)[..., None]
        example = pairs.hide(images, hidden, channel=pair.fields["channel"], conditional=pair.conditional)
        if pair.conditional:
            mean, logvar = self._apply(example.condition, method="prior")
            noise = jax.random.normal(jax.random.fold_in(key, 1), (n, *mean.shape))
            r = self._apply(mean[None] + jnp.exp(logvar / 2)[None] * noise, Given(example.condition), method="decode")
        else:
            r = jnp.repeat(self._apply(example.input, method="__call__")[0][None], n, axis=0)
        return np.asarray(jnp.where(hidden[None] == 1, self.objective.likelihood.mean(r), images[None]))

    def corrupted(self, x: Any, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """(what the pair gives of images [N, H, W, C], its hidden part or None, the mean of the output)."""
        batch = pairs.scale({"x": jnp.asarray(self.take(x))})
        example = self.objective.pair(prng.key(seed), batch)
        r = self._mean(example)
        hidden = None if example.hidden is None else np.asarray(example.hidden)
        return np.asarray(pairs.seen(example)), hidden, np.asarray(r)

    def check_classifier(self) -> None:
        """Raises InputError where the model gives no labels."""
        if not self.objective.pair.supervised:
            raise InputError(
                "classify: this model gives no labels, nor probabilities of them; one of config.finetune.name = "
                "'classifier' does"
            )

    def refuse_classifier(self, name: str) -> None:
        """Raise InputError where the model gives labels."""
        if self.objective.pair.supervised:
            raise InputError(
                f"{name}: this model gives labels, not examples; it has codes, and probabilities of the labels "
                "(predict --what=probabilities, export --what=classify)"
            )

    def check_decodable(self) -> None:
        """Raises InputError where a code alone is not what the decoder needs."""
        self.refuse_classifier("decode")
        if self.objective.pair.conditional:
            raise InputError("decode: this model's decoder sees part of an image besides the code; use complete")
        jax.eval_shape(self.pure_decode, jax.ShapeDtypeStruct((1, *self.code_shape), jnp.float32))

    @property
    def decodable(self) -> bool:
        """Whether a code alone is what the decoder needs."""
        pair = self.objective.pair
        return not (pair.conditional or pair.supervised or self.objective.model.needs_context)

    @functools.cached_property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of one code."""
        x = jnp.zeros((1, *self.spec.shape))
        return jax.eval_shape(self.pure_encode, x).shape[1:]

    @property
    def parameters(self) -> int:
        """Trained numbers."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def _apply(self, *args: Any, method: str, **kwargs: Any) -> Any:
        return self.objective.model.apply({"params": self.params, **self.variables}, *args, method=method, **kwargs)

    def example(self, x: jax.Array) -> pairs.Example:
        """The pair with nothing corrupted; of a conditional model, each row with the same hidden part."""
        x, pair = pairs.scale({"x": x})["x"], self.objective.pair
        if not pair.conditional:
            return pair(None, {"x": x, "y": jnp.full(x.shape[:1], -1)})  # labels are not known here
        # Drawn for one row, so that a score does not depend on the others.
        one = pair(prng.key(0), {"x": x[:1]})
        assert one.hidden is not None
        return pairs.hide(x, one.hidden, channel=pair.fields["channel"], conditional=True)._replace(weight=one.weight)

    def _mean(self, example: pairs.Example) -> jax.Array:
        return pairs.output(example, self.objective.likelihood.mean(self._apply_to(example)[0]))

    def _apply_to(self, example: pairs.Example) -> Any:
        return self._apply(example.input, condition=example.condition, method="__call__")

    def take(self, x: Any) -> Any:
        """Raw examples as the model takes them; of a model that colours, grey images as equal channels."""
        if self.spec.kind == "table":
            return self.spec.apply(x)
        x, grey = np.asarray(x), (self.spec.shape[:2], (*self.spec.shape[:2], 1))
        if self.objective.pair.name == "colorize" and x.shape[1:] in grey:
            x = np.repeat(x.reshape(*x.shape[:3], 1), 3, axis=-1)
        return self.spec.apply(x)

    def target(self, x: np.ndarray) -> np.ndarray:
        """Examples [N, ...] as the model takes them, on the scale of its reconstructions."""
        return np.asarray(self.objective.likelihood.target(jnp.asarray(x)))

    # The same as pure functions of a batch as the model takes it (tables standardised), for jit and map.

    def pure_encode(self, x: jax.Array) -> jax.Array:
        return self._apply(self.example(x).input, method="encode").z

    def pure_decode(self, z: jax.Array) -> jax.Array:
        return self.objective.likelihood.mean(self._apply(z, method="decode"))

    def pure_reconstruct(self, x: jax.Array) -> jax.Array:
        return self._mean(self.example(x))

    def pure_score(self, x: jax.Array) -> jax.Array:
        example = self.example(x)
        r, code = self._apply_to(example)
        score = self.objective.reconstruction(self.params, example, r)
        return score + penalties.kl(self.context(example, code)) if "kl" in self.objective.penalties else score

    def context(self, example: pairs.Example, code: Code | None = None) -> penalties.Context:
        """What a penalty looks at."""
        encode = self.objective.encoder(self.params, self.variables)
        return penalties.Context(
            encode=encode,
            example=example,
            code=encode(example.input) if code is None else code,
            params=self.params,
            key=prng.key(0),
            step=jnp.zeros((), jnp.int32),
            activation=self.objective.activation,
        )

    def map(self, function: Callable[[jax.Array], jax.Array], x: Any) -> np.ndarray:
        """`function` over the rows, in batches of one or few shapes, so that few compilations serve."""
        call, n = self._compiled.setdefault(function, jax.jit(function)), x.shape[0]
        if not n:
            shape = jax.eval_shape(function, jnp.zeros((1, *x.shape[1:]), x.dtype)).shape[1:]
            return np.zeros((0, *shape), np.float32)
        size = min(BATCH, 1 << (n - 1).bit_length())
        parts = [np.asarray(call(dense(x[rows]))) for rows, _ in zip(*feed.batches(n, size), strict=True)]
        return np.concatenate(parts)[:n]


def load(workdir: str | Path, checkpoint: str = "last") -> Trained:
    """The model of a run directory; checkpoint "last", or "best" by validation loss. Raises InputError."""
    from aejax.checkpoint import Checkpoints

    path = Path(workdir)
    config, spec = run_dir.read(path)
    folder = path / run_dir.CHECKPOINTS / checkpoint
    if not folder.is_dir():
        raise InputError(f"workdir {path}: has no checkpoint {checkpoint!r}")
    total = config.train.epochs * (spec.train // config.train.batch_size)
    experiment = steps.build(config, spec, total)
    state = jax.eval_shape(lambda: steps.init(experiment, spec))
    # Not the optimiser's, whose tree may be another: few_labels chooses what is frozen.
    parts = {name: value for name, value in vars(state).items() if name != "opt_state" and value is not None}
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), parts)
    with Checkpoints(folder, read_only=True) as checkpoints:
        step = checkpoints.latest()
        if step is None:
            raise InputError(f"workdir {path}: has no checkpoint yet")
        found = checkpoints.restore_part(step, like)
    return Trained(config, spec, dataclasses.replace(state, **found, opt_state=None))


def fit(x: Any, config: ConfigDict, *, y: Any = None, workdir: str | Path | None = None) -> Trained:
    """Train on an array in memory: images [N, H, W(, C)] or a table [N, D]; y [N] are labels for figures.

    Without a workdir nothing is kept on disk. Raises InputError, NonFiniteError.
    """
    from aejax import train  # which, at its end, uses a trained model

    data = sources.from_array(x, config, y)
    if workdir is not None:
        train.run(config, workdir, data)
        return load(workdir)
    with tempfile.TemporaryDirectory() as folder:
        train.run(config, folder, data)
        return load(folder)


if __name__ == "__main__":
    from absl import flags

    from aejax import apply, cli

    apply.define_flags()
    flags.adopt_module_key_flags(apply)
    cli.run(apply.main)
