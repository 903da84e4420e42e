"""Compression: the size of the test split as a file, without loss by a variational autoencoder, else against the
squared error, beside PCA with the same quantiser and coder and beside general compressors."""

import bz2
import gzip
import lzma
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.fields import Allowed, Field, at_least
from aejax.trained import Trained
from aejax.uses.base import Draw, Metric, Result, Skip
from aejax.uses.compression.codec import Form, compress, decompress, header, is_lossless
from aejax.uses.compression.quantizer import STORED, Quantizer, fit
from aejax.uses.compression.rates import Point, curve, image_file, jpeg, rate_at
from aejax.uses.data import Data
from aejax.uses.spaces import codes as encoded
from aejax.uses.stored import pack

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda content: gzip.compress(content, 9),
    "bz2": lambda content: bz2.compress(content, 9),
    "xz": lambda content: lzma.compress(content, preset=9 | lzma.PRESET_EXTREME),
}
JACOBIANS = 64  # training examples whose Jacobian of the decoder is averaged
ROWS = 4  # files of which images are drawn
UNITS = 512  # most units whose Jacobian is computed
METRICS = {
    "bits_per_pixel": Metric("bits of the compressed file over the values of the examples", "bits", "lower"),
    "elbo_bits_per_pixel": Metric(
        "negative evidence lower bound of the same examples over their values, the expected size without loss",
        "bits",
        "lower",
    ),
    "overhead": Metric("bits_per_pixel over elbo_bits_per_pixel, less 1", "", "lower"),
    "file_ratio": Metric("bits of the file over those of PCA's file at equal squared error", "", "lower"),
    "model_bytes": Metric("size of the model in bytes, which is not part of the file", "bytes", "lower"),
    "compress_seconds": Metric("time to compress the test split", "seconds", "lower"),
    "decompress_seconds": Metric("time to decompress the test split", "seconds", "lower"),
}


def measure(
    trained: Trained,
    data: Data,
    *,
    steps: Annotated[
        tuple,
        Field(
            "steps of the quantiser, in units of the output: a code that is moved by it moves the output by so much; "
            "compress uses the first one",
            Allowed(
                "be a tuple of at least one float greater than 0",
                lambda v: v != () and all(isinstance(s, int | float) and s > 0 for s in v),
            ),
        ),
    ] = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8),
    components: Annotated[
        int,
        Field(
            "compare the sizes of files at the squared error of PCA with so many components; 0 = as the code has units",
            at_least(0),
        ),
    ] = 0,
    examples: Annotated[int, Field("most test examples that are compressed", at_least(1))] = 10_000,
) -> Result:
    """A variational autoencoder of binary examples: `compression/{bits_per_pixel,elbo_bits_per_pixel,overhead}` and
    `compression/{gzip,bz2,xz,png}/bits_per_pixel`. Any other model with a code that can be decoded:
    `compression/step_S/{bits_per_pixel,squared_error,psnr}` for each step of the quantiser, the same for PCA,
    `compression/pca/step_S/...`, and `compression/file_ratio`. For an ordered code also
    `compression/{,pca/}units_N/squared_error` of the first N units, without quantisation.

    The files are complete: header, payload and checksum. Frequencies of the quantised codes are of the training
    split and belong to the model. Raises Skip for a model whose code cannot be decoded.
    """
    if not trained.decodable:
        raise Skip("the decoder needs more than the code")
    x = np.asarray(data.test[:examples])
    if not len(x):
        raise Skip("needs test examples")
    binary = bool(np.isin(x, (0, 1)).all())
    if is_lossless(trained) and binary:
        return _lossless(trained, data, x)
    return _lossy(trained, data, x, steps, components)


def check(config: Any, spec: Spec) -> Iterator[FieldError]:
    """Errors of the section `uses.compression` on data of `spec`."""
    most = min(spec.train, math.prod(spec.x.shape))
    if config.uses.compression.components > most:
        allowed = f"must be at most {most}, the smaller of the training examples and the values of one"
        yield FieldError("uses.compression.components", config.uses.compression.components, allowed)


def _lossless(trained: Trained, data: Data, x: np.ndarray) -> Result:
    values = x.size
    start = time.perf_counter()
    content = compress(trained, x, Form(x.shape[1:], "float32"), None)
    middle = time.perf_counter()
    back, _, _ = decompress(trained, content, "compression", None)
    seconds = time.perf_counter() - middle
    if not np.array_equal(back, x):
        raise Skip("the decompressed examples are not those that were compressed")
    bits, elbo = 8 * len(content) / values, -elbo_nats(trained, x) / math.log(2) * len(x) / values
    numbers = {
        "bits_per_pixel": bits,
        "elbo_bits_per_pixel": elbo,
        "overhead": bits / elbo - 1,
        "model_bytes": float(_model_bytes(trained, None)),
        "compress_seconds": middle - start,
        "decompress_seconds": seconds,
    }
    packed = np.packbits(x.astype(np.uint8)).tobytes()
    sizes = {name: len(compressor(packed)) for name, compressor in COMPRESSORS.items()}
    if trained.spec.x.kind == "image":
        sizes["png"] = len(image_file(255 * x.astype(np.uint8), "PNG", bilevel=True))
    numbers |= {f"{name}/bits_per_pixel": 8 * size / values for name, size in sizes.items()}
    rows = {"this model": bits, "ELBO": elbo, **{name: numbers[f"{name}/bits_per_pixel"] for name in sizes}}
    notes = [
        f"{len(x):,} test examples of {values // len(x)} binary values: {len(content):,} bytes, decompressed to the "
        "same values",
    ]
    if trained.config.data.binarize != "none":
        notes.append("the test examples are binarised once, by a draw that is the same for every run")
    return Result(
        {f"compression/{name}": value for name, value in numbers.items()},
        {"sizes": {"code": list(rows), "bits_per_pixel": list(rows.values())}},
        {"sizes": _draw_sizes(rows)},
        notes,
    )


def elbo_nats(trained: Trained, x: np.ndarray, draws: int = 4) -> float:
    """The evidence lower bound in nats, the mean over examples [N, ...] and draws of z."""
    keys = jax.random.split(trained.experiment.evaluation_key, draws)

    def bound(x: jax.Array) -> jax.Array:
        batch = {"x": x, "y": jnp.full(x.shape[:1], -1)}

        def one(key: jax.Array) -> jax.Array:
            step = jnp.zeros((), jnp.int32)
            terms, _ = trained.objective.terms(trained.params, trained.variables, batch, key=key, step=step, clean=True)
            return -(terms["reconstruction"] + terms["kl"])

        return jnp.mean(jax.lax.map(one, keys), axis=0)

    return float(trained.map(bound, x).mean(dtype=np.float64))


def _lossy(trained: Trained, data: Data, x: np.ndarray, steps: Sequence[float], components: int) -> Result:
    image = trained.spec.x.kind == "image"
    target = trained.target(x).reshape(len(x), -1)
    ordered = trained.config.model.bottleneck.name == "nested"
    codes, asked = (encoded(trained, part) for part in (data.train, x))
    if not (np.isfinite(codes).all() and np.isfinite(asked).all()):
        raise Skip("needs finite codes")
    size, about = codes.shape[1], header(trained, len(x), Form(x.shape[1:], "float32"))
    fitted = fit(codes, metric(trained, codes), steps, ordered=ordered)

    def decode(z: np.ndarray) -> np.ndarray:
        made = trained.map(trained.pure_decode, z.reshape(len(z), *trained.code_shape))
        return made.reshape(len(z), -1)

    sizes = _prefixes(size) if ordered else [size]
    points = [*curve("model", asked, fitted, decode, target, sizes, image, about)]
    reference = components or min(size, *data.train.shape[:1], target.shape[1])
    most = min(max(4 * reference, 2 * size, 64), len(data.train), target.shape[1])
    pca = data.pca(trained, most)
    flat = trained.target(data.train).reshape(len(data.train), -1)
    scores, own = pca.transform(flat), pca.transform(target)
    linear = fit(scores, np.eye(scores.shape[1]), steps, ordered=True)
    points += curve("pca", own, linear, lambda z: pca.inverse_transform(z), target, _prefixes(most), image, about)
    goal = float(np.mean(np.sum((target - _project(pca, own, reference)) ** 2, 1, dtype=np.float64)))
    numbers = _named(points, size, most)
    numbers["model_bytes"] = float(_model_bytes(trained, fitted))
    numbers["pca/model_bytes"] = float(sum(a.nbytes for a in (pca.components_, pca.mean_, *linear.stored().values())))
    ratio, notes = _ratio(points, goal, reference)
    numbers |= ratio
    if image:
        points += jpeg(x, target)
    tables: dict[str, dict[str, list[Any]]] = {
        "rates": {name: [point[i] for point in points] for i, name in enumerate(Point._fields)}
    }
    notes.append(f"{len(x):,} test examples; frequencies of the quantised codes from {len(codes):,} training examples")
    stored = {STORED: pack(fitted.stored(), [trained], {})}
    figures = {"rate_distortion": _draw_curve(points, goal, reference)}
    if ordered:
        tables["prefixes"] = _prefix_errors(asked, decode, lambda n: _project(pca, own, n), target, min(size, most))
        figures["prefixes"] = _draw_prefixes(tables["prefixes"])
        for name in ("", "pca/"):
            errors = dict(zip(tables["prefixes"]["units"], tables["prefixes"][f"{name}squared_error"], strict=True))
            numbers |= {f"{name}units_{n}/squared_error": errors[n] for n in sizes if n in errors}
    if image:
        shown = int(trained.config.figures.examples)
        figures["compressed"] = _draw_images({"original": x[:shown]} | _rows(points, x[:shown], asked, fitted, decode))
    return Result({f"compression/{n}": v for n, v in numbers.items()}, tables, figures, notes, stored)


def metric(trained: Trained, codes: np.ndarray) -> np.ndarray:
    """The mean of JᵀJ [units, units] over training codes [n, units]; J is the Jacobian of the decoder's output."""
    size = codes.shape[1]
    if size > UNITS:
        return np.eye(size)
    chosen = jnp.asarray(codes[:: max(len(codes) // JACOBIANS, 1)][:JACOBIANS])

    def one(z: jax.Array) -> jax.Array:
        j = jax.jacfwd(lambda z: trained.pure_decode(z.reshape(1, *trained.code_shape)).reshape(-1))(z)
        return j.T @ j

    return np.asarray(jnp.mean(jax.lax.map(one, chosen), axis=0), np.float64)


def _prefix_errors(
    codes: np.ndarray,
    decode: Callable[[np.ndarray], np.ndarray],
    project: Callable[[int], np.ndarray],
    target: np.ndarray,
    most: int,
) -> dict[str, list[Any]]:
    """Squared error of the first n units, the others 0, and of n principal components, without quantisation."""
    table = dict[str, list[Any]](units=[], squared_error=[])
    table["pca/squared_error"] = []
    for n in range(1, most + 1):
        table["units"].append(n)
        kept = np.where(np.arange(codes.shape[1]) < n, codes, 0)
        for name, made in (("squared_error", decode(kept)), ("pca/squared_error", project(n))):
            table[name].append(float(np.mean(np.sum((target - made) ** 2, 1, dtype=np.float64))))
    return table


def _draw_prefixes(table: Mapping[str, Sequence[Any]]) -> Draw:
    def draw() -> Any:
        from aejax.uses.compression.plots import prefixes

        return prefixes(table["units"], {"this model": table["squared_error"], "PCA": table["pca/squared_error"]})

    return draw


def _prefixes(size: int) -> list[int]:
    """1, 2, 4, ... and the size."""
    return sorted({*(2**k for k in range(size.bit_length()) if 2**k < size), size})


def _project(pca: Any, scores: np.ndarray, size: int) -> np.ndarray:
    projected: np.ndarray = scores[:, :size] @ pca.components_[:size] + pca.mean_
    return projected


def _named(points: Sequence[Point], size: int, most: int) -> dict[str, float]:
    """Numbers of the whole codes, and of PCA with the most components."""
    numbers = dict[str, float]()
    for point in points:
        if point.units != {"model": size, "pca": most}[point.code]:
            continue
        at = ("pca/" if point.code == "pca" else "") + f"step_{point.step:g}"
        for name in ("bits_per_pixel", "squared_error", "psnr"):
            value = getattr(point, name)
            numbers |= {f"{at}/{name}": value} if math.isfinite(value) else {}
    return numbers


def _ratio(points: Sequence[Point], goal: float, reference: int) -> tuple[dict[str, float], list[str]]:
    """Bits per pixel at the squared error `goal`, of the model and of PCA, and their ratio."""
    own, pca = (rate_at([p for p in points if p.code == code], goal) for code in ("model", "pca"))
    said = f"squared error {goal:.4g}, that of PCA with {reference} components"
    if own is None or pca is None:
        short = "the model" if own is None else "PCA"
        return {}, [f"no step gives {short} the {said}: no ratio of the files; see `steps` and rates.csv"]
    numbers = {"equal_error/bits_per_pixel": own, "pca/equal_error/bits_per_pixel": pca, "file_ratio": own / pca}
    return numbers, [f"equal_error: at the {said}, between the two nearest steps"]


def _model_bytes(trained: Trained, fitted: Quantizer | None) -> int:
    leaves = jax.tree.leaves((trained.params, trained.variables))
    return sum(leaf.nbytes for leaf in leaves) + sum(a.nbytes for a in (fitted.stored().values() if fitted else ()))


def _rows(
    points: Sequence[Point], x: np.ndarray, codes: np.ndarray, fitted: Quantizer, decode: Callable[[Any], np.ndarray]
) -> dict[str, np.ndarray]:
    """Images that are decoded from at most ROWS of the model's best files, by the size of the file."""
    best = sorted((p for p in points if p.code == "model"), key=lambda p: p.bits_per_pixel)
    best = [p for i, p in enumerate(best) if all(p.squared_error < q.squared_error for q in best[:i])]
    chosen = [best[i] for i in np.unique(np.linspace(len(best) - 1, 0, ROWS).astype(int))[::-1]]
    rows = {}
    for point in chosen:
        q = fitted.quantize(codes[: len(x)], point.step)[:, : point.units]
        bits = point.bits_per_pixel * x[0].size
        rows[f"{bits:.0f} bits an image, squared error {point.squared_error:.3g}"] = decode(
            fitted.dequantize(q, point.step)
        ).reshape(x.shape)
    return rows


def _draw_images(rows: Mapping[str, np.ndarray]) -> Draw:
    def draw() -> Any:
        from aejax.plots import image_rows

        return image_rows(rows)

    return draw


def _draw_sizes(rows: Mapping[str, float]) -> Draw:
    def draw() -> Any:
        from aejax.uses.compression.plots import sizes

        return sizes(rows)

    return draw


def _draw_curve(points: Sequence[Point], goal: float, reference: int) -> Draw:
    def draw() -> Any:
        from aejax.uses.compression.plots import rate_distortion

        named = {"this model": "model", "PCA": "pca", "JPEG": "jpeg"}
        lines = {
            name: [(p.bits_per_pixel, p.squared_error) for p in points if p.code == c] for name, c in named.items()
        }
        return rate_distortion(lines, {f"PCA-{reference}, not quantised": goal})

    return draw
