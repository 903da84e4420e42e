"""Damage images as in training, restore them by the model and by simple methods, and compare."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aejax.losses import quality
from aejax.pairs import Denoise, Inpaint, Pair
from aejax.pairs.example import seen
from aejax.pairs.splits import EVALUATION
from aejax.trained import Trained, in_batches
from aejax.uses.restoration.filters import biharmonic, gaussian, mean_colour, median, nearest
from aejax.uses.restoration.restored import of_taken

Restore = Callable[[np.ndarray, np.ndarray | None], np.ndarray]  # damaged, hidden [N, H, W, 1] -> restored
VALUES = 2**23  # of the images that are held at once
TEST, TRAINING = 0, 1  # streams of draws
MODEL, INPUT = "", "input"


def damage(trained: Trained, pair: Pair, x: np.ndarray, rows: np.ndarray, stream: int) -> tuple[np.ndarray, Any]:
    """(damaged images, hidden part [N, H, W, 1] or None) of the images x [N, H, W, C], which are `rows` of a split.

    The draw of an image depends on its row and the stream alone: all levels and all models see the same one.
    """
    key = jax.random.fold_in(jax.random.fold_in(trained.experiment.evaluation_key, EVALUATION), stream)
    inputs = key, jnp.asarray(rows), jnp.asarray(x)
    if isinstance(pair, Denoise | Inpaint):  # the level is traced: one compilation for all levels
        given, hidden = _damage(dataclasses.replace(pair, level=0.0), *inputs, pair.level)
    else:
        given, hidden = _damage(pair, *inputs, None)
    return np.asarray(given), np.asarray(hidden) if isinstance(pair, Inpaint) else None


@functools.partial(jax.jit, static_argnums=0)
def _damage(pair: Any, key: jax.Array, rows: jax.Array, x: jax.Array, level: Any) -> tuple[jax.Array, Any]:
    own: Pair = pair if level is None else dataclasses.replace(pair, level=level)

    def one(row: jax.Array, image: jax.Array) -> tuple[jax.Array, Any]:
        example = own.make(jax.random.fold_in(key, row), {"x": image[None]})
        return seen(example)[0], None if example.hidden is None else example.hidden[0]

    return jax.vmap(one)(rows, x)


def similarity(x: np.ndarray, r: np.ndarray, hidden: np.ndarray | None) -> dict[str, np.ndarray]:
    """psnr, ssim and hidden_psnr [N] of restored images r; see `losses.quality`. NaN where nothing is hidden."""
    parts = [x, r, *([] if hidden is None else [np.broadcast_to(hidden, x.shape)])]
    values = in_batches(_similarity, np.stack(parts, 1).astype(np.float32)).T
    names = ["psnr", *(["ssim"] if min(x.shape[1:3]) >= quality.WINDOW else [])]
    found = dict(zip([*names, "hidden_psnr"], values, strict=False))
    if hidden is not None:
        found["hidden_psnr"] = np.where(hidden.any((1, 2, 3)), found["hidden_psnr"], np.nan)
    return found


@jax.jit
def _similarity(both: jax.Array) -> jax.Array:
    target, image = both[:, 0], both[:, 1]
    values = [quality.psnr(target, image)]
    if min(target.shape[1:3]) >= quality.WINDOW:
        values.append(quality.ssim(target, image))
    if both.shape[1] == 3:
        values.append(quality.psnr(target, image, both[:, 2]))
    return jnp.stack(values, 1)


@dataclasses.dataclass(frozen=True)
class Trial:
    """Similarities [N] by method and measure, NaN where one was not measured; "" is the model."""

    values: Mapping[str, Mapping[str, np.ndarray]]
    settings: Mapping[str, float]  # such as median/size

    def means(self) -> dict[str, float]:
        """METHOD/MEASURE -> mean over the images."""
        named = {f"{m}/{k}".strip("/"): v for m, found in self.values.items() for k, v in found.items()}
        return {name: float(np.nanmean(v)) for name, v in named.items() if not np.isnan(v).all()}

    def gain(self) -> tuple[float, str]:
        """The PSNR of the model above that of the best simple method, on the images of that one, and its name."""
        own = self.values[MODEL]["psnr"]
        gains = {m: float(np.nanmean(own - v["psnr"])) for m, v in self.values.items() if m not in (MODEL, INPUT)}
        best = min(gains, key=lambda m: gains[m])
        return gains[best], best


@dataclasses.dataclass(frozen=True)
class Bench:
    """Test images `rows` of a split, training images, and the choices of the simple methods."""

    trained: Trained
    test: Any  # [N, H, W, C], in [0, 1]
    rows: np.ndarray  # of the test split
    train: np.ndarray
    sizes: Sequence[int]
    widths: Sequence[float]
    slow: np.ndarray  # rows of the test split that biharmonic inpainting restores

    def run(self, pair: Pair) -> Trial:
        """Restore every image by every method."""
        methods, settings = self.methods(pair)
        found: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in methods}
        size = max(VALUES // int(np.prod(self.train.shape[1:])), 1)
        for begin in range(0, len(self.rows), size):
            rows = self.rows[begin : begin + size]
            x = np.asarray(self.test[rows])
            given, hidden = damage(self.trained, pair, x, rows, TEST)
            for name, restore in methods.items():
                some = np.isin(rows, self.slow) if name == "biharmonic" else np.ones(len(rows), bool)
                part = None if hidden is None else hidden[some]
                for measure, values in similarity(x[some], restore(given[some], part), part).items():
                    whole = np.full(len(rows), np.nan)
                    whole[some] = values
                    found[name].setdefault(measure, []).append(whole)
        joined = {name: {k: np.concatenate(v) for k, v in own.items()} for name, own in found.items()}
        return Trial(joined, settings)

    def methods(self, pair: Pair) -> tuple[dict[str, Restore], dict[str, float]]:
        """The model, the input and the simple methods; and what was chosen for these on training images."""
        chosen: dict[str, Restore] = {
            MODEL: lambda x, hidden: of_taken(self.trained, x, None if hidden is None else hidden[..., 0]),
            INPUT: lambda x, _: np.clip(x, 0, 1),
        }
        if isinstance(pair, Inpaint):
            chosen["nearest"] = lambda x, hidden: nearest(x, np.asarray(hidden))
            if len(self.slow):
                chosen["biharmonic"] = lambda x, hidden: biharmonic(x, np.asarray(hidden))
            return chosen, {}
        given, _ = damage(self.trained, pair, self.train, np.arange(len(self.train)), TRAINING)
        if not isinstance(pair, Denoise):
            offset = (self.train - given).mean((0, 1, 2))
            return chosen | {"mean_color": lambda x, _: mean_colour(x, offset)}, {}
        size = self._best(median, given, self.sizes)
        width = self._best(gaussian, given, self.widths)
        chosen["median"] = lambda x, _: median(x, size)
        chosen["gaussian"] = lambda x, _: gaussian(x, width)
        return chosen, {"median/size": size, "gaussian/width": width}

    def _best(self, method: Callable[[np.ndarray, float], np.ndarray], given: np.ndarray, choices: Any) -> float:
        """The choice with the largest mean PSNR on the training images."""
        scores = [similarity(self.train, method(given, choice), None)["psnr"].mean() for choice in choices]
        best: float = choices[int(np.argmax(scores))]
        return best

    def images(self, pair: Pair, positions: np.ndarray, best: str) -> dict[str, np.ndarray]:
        """name -> images: damaged, by the simple method `best`, restored, original; hidden parts are grey."""
        methods, settings = self.methods(pair)
        rows = self.rows[positions]
        x = np.asarray(self.test[rows])
        given, hidden = damage(self.trained, pair, x, rows, TEST)
        shown = np.clip(given, 0, 1) if hidden is None else np.where(hidden == 1, np.float32(0.5), given)
        about = ", ".join(f"{k.rpartition('/')[2]} {v:g}" for k, v in settings.items() if k.startswith(f"{best}/"))
        simple = best.replace("_", " ").replace("gaussian", "Gaussian") + (f" filter, {about}" if about else "")
        first, _, last = pair.rows
        return {
            first: shown,
            simple: methods[best](given, hidden),
            "restored": methods[MODEL](given, hidden),
            last: x,
        }
