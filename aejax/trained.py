"""A trained model: encode, decode, reconstruct, score, sample on NumPy arrays."""

import copy
import functools
import hashlib
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy import sparse

from aejax import experiment as experiment_lib
from aejax.data import feed
from aejax.data.bags import dense
from aejax.data.sources import documents, frames
from aejax.errors import InputError
from aejax.experiment import Experiment, State
from aejax.losses import Forward, penalties
from aejax.models import Code, Context
from aejax.pairs.example import Example, output, scale, seen
from aejax.pairs.hide import Inpaint
from aejax.parallel import prng

BATCH = 1024  # rows in one dispatch


class Trained:
    """A trained autoencoder on NumPy arrays of any number of rows.

    Inputs are raw: uint8 images or floats in [0, 1], [N, H, W(, C)]; tables [N, D] in their own units, sparse
    ones as scipy.sparse; series [N, time(, C)] in their own units, NaN = not observed; documents as a list of strings,
    or their counts [N, words].
    Nothing is corrupted here. A colourising model also takes grey images. A conditional model hides a part of
    each image by the mask of its config and sees the rest.
    """

    def __init__(self, experiment: Experiment, params: Any, variables: Any):
        self.experiment, self.config, self.spec = experiment, experiment.config, experiment.spec
        self.objective = experiment.objective
        # On the device: NumPy arrays cannot be indexed by traced values.
        self.params, self.variables = jax.tree.map(jnp.asarray, (params, variables))
        self._compiled: dict[Hashable, Callable[..., Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Arrays, config and spec: compiled functions cannot be pickled."""
        arrays = jax.tree.map(np.asarray, (self.params, self.variables))
        return {"config": self.config.to_dict(), "spec": self.spec, "arrays": arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        experiment = experiment_lib.build(ConfigDict(state["config"]).lock(), state["spec"])
        self.__init__(experiment, *state["arrays"])  # type: ignore[misc]

    def encode(self, x: Any) -> np.ndarray:
        """Codes z [N, code]; the mean if the bottleneck samples."""
        return self.map(self.pure_encode, self.take(x))

    def decode(self, z: Any) -> np.ndarray:
        """Reconstruction means [N, ...] of codes [N, code]: images in [0, 1], tables in their own units."""
        self.check_decodable()
        z = np.asarray(z, np.float32)
        shape = self.code_shape
        if z.shape[1:] != shape:
            raise InputError(f"codes: shape {z.shape} must be (rows, {', '.join(map(str, shape))})")
        return self.spec.x.unscale(self.map(self.pure_decode, z))

    def reconstruct(self, x: Any) -> np.ndarray:
        """Reconstruction means [N, ...] of examples, in their units (images in [0, 1])."""
        self.refuse_classifier("reconstruct")
        return self.spec.x.unscale(self.map(self.pure_reconstruct, self.take(x)))

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
        """Reconstruction means [n, ...] of n codes from the prior N(0, I); a model with a prior only."""
        return self.decode(self.prior(n, seed))

    def prior(self, n: int, seed: int = 0) -> np.ndarray:
        """n codes from the prior N(0, I), [n, code]; a model with a prior only."""
        if self.objective.pair.conditional:
            raise InputError("sample: this model's prior is conditional; complete(x, n=...) samples the hidden part")
        if not self.experiment.has_prior:
            raise InputError(
                "sample: this model's codes have no prior: train with model.bottleneck.name = gaussian or "
                "method.name = adversarial, or draw from a density of the codes: predict --sampler=gmm (see the use "
                "generation), in Python model.sampler"
            )
        if n < 0:
            raise InputError(f"sample: n = {n}: must be at least 0")
        return np.random.default_rng(seed).standard_normal((n, *self.code_shape), np.float32)

    def complete(self, x: Any, hidden: Any = None, *, n: int = 1, seed: int = 0) -> np.ndarray:
        """Images [N, H, W, C] with the part `hidden` [N, H, W] (1 = hidden) filled in; a model of inpainting only.

        Returns [n, N, H, W, C]. Visible pixels are kept; hidden ones are replaced by the mean of the output, and
        their values in x are ignored. A conditional model decodes n codes from the prior given the visible part; any
        other model repeats one answer. Without `hidden` the mask is the config's, drawn by `seed`.
        """
        pair = self.objective.pair
        if not isinstance(pair, Inpaint):
            raise InputError("complete: needs a model of config.pair.name = 'inpaint'")
        if self.spec.x.kind != "image":
            raise InputError("complete: needs images; `reconstruct` fills in the values of a series that are NaN")
        images, key = jnp.asarray(self.take(x)), prng.key(seed)
        images = scale({"x": images})["x"]
        if hidden is None:
            hidden = pair.make(key, {"x": images}).hidden
        else:
            hidden = np.asarray(hidden, np.float32)
            if hidden.shape != images.shape[:3] or not np.isin(hidden, (0, 1)).all():
                raise InputError(f"hidden: must be 0 or 1 in shape {images.shape[:3]}, found shape {hidden.shape}")
            hidden = jnp.asarray(hidden)[..., None]
        example = pair.hide(images, hidden)
        if pair.conditional:
            mean, logvar = self.apply(example.condition, method="prior")
            noise = jax.random.normal(jax.random.fold_in(key, 1), (n, *mean.shape))
            codes, context = mean[None] + jnp.exp(logvar / 2)[None] * noise, Context(condition=example.condition)
            means = self.objective.mean(self.apply(codes, context, method="decode_samples"))
        else:
            means = self.objective.mean(self.apply(example.input, method="__call__")[0])
            means = jnp.repeat(means[None], n, axis=0)
        return np.asarray(jnp.where(hidden[None] == 1, means, images[None]))

    def corrupted(self, x: Any, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """(input that the pair makes of images [N, H, W, C], its hidden part or None, mean of the output)."""
        batch = scale({"x": jnp.asarray(self.take(x))})
        example = self.objective.examples(prng.key(seed), batch)
        r = self._mean(example)
        hidden = None if example.hidden is None else np.asarray(example.hidden)
        return np.asarray(seen(example)), hidden, np.asarray(r)

    def check_classifier(self) -> None:
        """Raise InputError unless the model is a classifier."""
        if self.objective.model.output != "y":
            raise InputError(
                "classify: this model is not a classifier; train one with config.finetune.name = 'classifier'"
            )

    def refuse_classifier(self, name: str) -> None:
        """Raise InputError if the outputs are labels or captions, not examples."""
        if self.objective.model.output == "caption":
            raise InputError(
                f"{name}: this model writes captions, without reconstructions; use its codes, or the captions "
                "(predict --what=sequences, export --what=write)"
            )
        if self.objective.pair.supervised:
            raise InputError(
                f"{name}: this model is a classifier, without reconstructions; use its codes, or probabilities of the "
                "labels (predict --what=probabilities, export --what=classify)"
            )

    def check_decodable(self) -> None:
        """Raise InputError if the decoder needs more than a code."""
        self.refuse_classifier("decode")
        if self.objective.pair.conditional:
            raise InputError("decode: this model's decoder sees part of an image besides the code; use complete")
        jax.eval_shape(self.pure_decode, jax.ShapeDtypeStruct((1, *self.code_shape), jnp.float32))

    @property
    def decodable(self) -> bool:
        """A code alone can be decoded to an example."""
        return self.experiment.decodable

    @functools.cached_property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of one code."""
        x = jnp.zeros((1, *self.spec.x.shape))
        return jax.eval_shape(self.pure_encode, x).shape[1:]

    def on(self, params: Any, variables: Any) -> "Trained":
        """The same model with other parameters, which may be traced: for functions of the parameters."""
        other = copy.copy(self)
        other.params, other.variables = params, variables
        return other

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the parameters. An index or a detector stores it, so that another model refuses the file."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves((self.params, self.variables)):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()

    @property
    def parameters(self) -> int:
        """The number of trained parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def apply(self, *args: Any, method: Any, **kwargs: Any) -> Any:
        """A method of the model at its parameters."""
        return self.objective.model.apply({"params": self.params, **self.variables}, *args, method=method, **kwargs)

    def example(self, x: jax.Array) -> Example:
        """The pair with nothing corrupted; in a conditional model every row has the same hidden part."""
        x, pair = scale({"x": x})["x"], self.objective.pair
        if not (isinstance(pair, Inpaint) and pair.conditional):
            return self.objective.examples(None, {"x": x, "y": jnp.full(x.shape[:1], -1)})  # labels are unknown here
        # Drawn for one row, so that a score does not depend on the others.
        one = pair.make(prng.key(0), {"x": x[:1]})
        assert one.hidden is not None
        return pair.hide(x, one.hidden).weighted(one.weight)

    def _mean(self, example: Example) -> jax.Array:
        if self.objective.pair.writes:  # without the tokens of the example: it reads what it writes
            example = example._replace(condition=None)
        return output(example, self.objective.mean(self._apply_to(example)[0]))

    def _apply_to(self, example: Example) -> Any:
        return self.apply(example.input, condition=example.condition, method="__call__")

    def take(self, x: Any) -> Any:
        """Raw examples -> the model's examples; for a colourising model, grey images become equal channels."""
        if frames.is_frame(x):
            x = frames.matrix(x, self.spec.x, self.config)
        if self.spec.x.text or self.spec.x.kind == "tokens":
            return self.spec.x.apply(x if sparse.issparse(x) else documents(x))
        if self.spec.x.kind in ("table", "video"):
            return self.spec.x.apply(x)
        x, grey = dense(x), (self.spec.x.shape[:2], (*self.spec.x.shape[:2], 1))
        if self.config.pair.name == "colorize" and x.shape[1:] in grey:
            x = np.repeat(x.reshape(*x.shape[:3], 1), 3, axis=-1)
        return self.spec.x.apply(x)

    def target(self, x: np.ndarray) -> np.ndarray:
        """Examples [N, ...] as the model takes them, on the scale of its reconstructions; 0 for a missing value."""
        x = np.nan_to_num(x) if self.spec.x.missing == "mask" else x
        return np.asarray(self.objective.likelihood.target(jnp.asarray(x)))

    # The same as pure functions of a batch as the model takes it (tables standardised), for jit and map.

    def pure_encode(self, x: jax.Array) -> jax.Array:
        return self.code(x).z

    def code(self, x: jax.Array) -> Code:
        """The code with what else the decoder reads."""
        code: Code = self.apply(self.example(x).input, method="encode")
        return code

    def pure_decode(self, z: jax.Array) -> jax.Array:
        return self.objective.mean(self.apply(z, method="decode"))

    def pure_reconstruct(self, x: jax.Array) -> jax.Array:
        return self._mean(self.example(x))

    def pure_restore(self, x: jax.Array) -> jax.Array:
        """Restored images [B, H, W, C] in [0, 1] of damaged ones; an inpainting model's have the mask as one more
        channel, 1 = hidden, and keep the other pixels. Series [B, T, C] are restored in the same way."""
        pair = self.objective.pair
        if self.spec.x.kind == "series":
            x, hidden = x[..., :-1], x[..., -1:]
            mean = self._mean(self.objective.examples(None, {"x": x, "hidden": hidden}))
            return jnp.where(hidden == 1, mean, x)
        if not isinstance(pair, Inpaint):
            return jnp.clip(self.pure_reconstruct(x), 0, 1)
        x, hidden = x[..., :-1], x[..., -1:]
        example = pair.hide(x * (1 - hidden), hidden)
        if pair.conditional:
            code, _ = self.apply(example.condition, method="prior")
            outputs = self.apply(code[None], Context(condition=example.condition), method="decode_samples")
            mean = self.objective.mean(outputs)[0]
        else:
            mean = self.objective.mean(self._apply_to(example)[0])
        return jnp.where(hidden == 1, jnp.clip(mean, 0, 1), x)

    def pure_score(self, x: jax.Array) -> jax.Array:
        example = self.example(x)
        outputs, code = self._apply_to(example)
        score = self.objective.reconstruction(self.params, example, outputs)
        return score + penalties.kl(self.forward(example, code)) if "kl" in self.objective.penalties else score

    def pure_errors(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Reconstruction means [B, D], their squared residuals [B, D], 0 where a value is missing, and codes [B, d]."""
        example = self.example(x)
        outputs, code = self._apply_to(example)
        target = self.objective.likelihood.target(example.target)
        mean = output(example, self.objective.mean(outputs))
        squares = (target - mean) ** 2
        if example.weight is not None:
            squares = jnp.where(example.weight > 0, squares, 0)
        n = x.shape[0]
        return mean.reshape(n, -1), squares.reshape(n, -1), code.z.reshape(n, -1)

    def forward(self, example: Example, code: Code | None = None) -> Forward:
        """The `Forward` of an example, for penalties."""
        encode = self.objective.encoder(self.params, self.variables)
        return Forward(
            encode=encode,
            example=example,
            code=encode(example.input) if code is None else code,
            params=self.params,
            key=prng.key(0),
            step=jnp.zeros((), jnp.int32),
            activation=self.objective.activation,
        )

    def map(self, function: Callable[[jax.Array], Any], x: Any, *, name: Hashable = None) -> Any:
        """`function` over the rows, in batches of one or few shapes, so that few compilations serve.

        Its result, and that of `map`, is an array or a tuple of arrays. name: of a function that is made anew for each
        call, so that it is compiled once.
        """
        call, n = self._compiled.setdefault(name or function, jax.jit(function)), x.shape[0]
        if not n:
            made = jax.eval_shape(function, jnp.zeros((1, *x.shape[1:]), x.dtype))
            return jax.tree.map(lambda leaf: np.zeros((0, *leaf.shape[1:]), leaf.dtype), made)
        return in_batches(call, x)


def in_batches(function: Callable[[Any], Any], x: Any) -> Any:
    """`function` over the rows of x, one or more, in batches of one or few shapes, so that few compilations serve."""
    n = x.shape[0]
    size = min(BATCH, 1 << (n - 1).bit_length())
    parts = [jax.tree.map(np.asarray, function(dense(x[rows]))) for rows, _ in zip(*feed.batches(n, size), strict=True)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n], *parts)


def of_state(experiment: Experiment, state: State) -> Trained:
    """The model of a state, with its averaged parameters if it has them."""
    return Trained(experiment, state.params if state.ema is None else state.ema, state.variables)
