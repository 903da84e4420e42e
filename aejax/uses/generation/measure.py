"""Generation: samplers of codes, and how like the test examples the decoded samples are."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from aejax.data.bags import blanks
from aejax.data.spec import Spec
from aejax.errors import FieldError, InputError, raise_all
from aejax.fields import Allowed, Field, at_least, chosen, declared, within
from aejax.trained import Trained
from aejax.uses.base import Metric, Result, Skip
from aejax.uses.data import Data
from aejax.uses.generation.sample_quality import frechet_distance, kernel_distance, precision_and_recall
from aejax.uses.generation.samplers import NAMES, STORED, Sampler, Settings, fit, pack_all, posterior
from aejax.uses.generation.view import View
from aejax.uses.neighbours import Points

COMPONENTS = 50  # most components of PCA that are features, without a classifier
METRICS = {
    "fid": Metric("Fréchet distance of the features of samples and of test examples", "", "lower"),
    "kid": Metric("squared maximum mean discrepancy of the features, cubic kernel, unbiased", "", "lower"),
    "precision": Metric("share of the samples whose features lie among those of test examples", "", "higher"),
    "recall": Metric("share of the test examples whose features lie among those of samples", "", "higher"),
    "memorisation": Metric(
        "mean distance of samples to the nearest training example over that of test examples; far below 1 = copies"
    ),
}
Decode = Callable[[np.ndarray], np.ndarray]


def measure(
    trained: Trained,
    data: Data,
    *,
    samplers: Annotated[
        tuple,
        Field(
            "densities of codes: prior (N(0, I)), gaussian, gmm (Gaussian mixture), kde (kernel density), flow (flow "
            "matching)",
            Allowed(
                lambda: f"be a tuple of at least one of {', '.join(NAMES)}", lambda v: v != () and set(v) <= set(NAMES)
            ),
        ),
    ] = NAMES,
    rows: Annotated[int, Field("most training examples that are fitted to and compared with", at_least(10))] = 20_000,
    samples: Annotated[
        int, Field("most test examples that are compared with as many samples of each sampler", at_least(10))
    ] = 10_000,
    components: Annotated[int, Field("gmm: number of Gaussians; fewer if the codes are few", at_least(1))] = 10,
    bandwidth: Annotated[
        float,
        Field(
            "kde: standard deviation of a kernel, in deviations of a unit; 0 = the one with the largest held-out "
            "likelihood",
            at_least(0),
        ),
    ] = 0.0,
    flow_steps: Annotated[
        int, Field("flow: most steps of its training, of 256 codes; at most 100 passes over the codes", at_least(1))
    ] = 4000,
    flow_width: Annotated[int, Field("flow: units of each of its three hidden layers", at_least(1))] = 256,
    neighbours: Annotated[
        int, Field("precision and recall: a point's ball reaches its so many-th neighbour", within(1, 9))
    ] = 3,
    features: Annotated[
        str,
        Field(
            'run directory of the classifier whose code is the features of images; "" = train the config `classifier` '
            "on the labels once; without labels and for tables the features are PCA of the examples"
        ),
    ] = "",
    seed: Annotated[int, Field("seed of the fits and of the samples", within(0, 2**32, brackets="[)"))] = 0,
) -> Result:
    """Samplers are fitted to the codes of training examples; their decoded samples are compared with the test split.

    `generation/SAMPLER/{fid,kid,precision,recall,memorisation}`, and `generation/memorisation`, the smallest of these.
    N(0, I) is measured for every model; beside a model without a prior it is the naive choice. Baselines:
    `generation/test_split/{fid,kid}` of as many training examples, and `generation/pca/{gaussian,gmm}/...` of samples
    from densities of PCA with as many components as the code has units. For a gaussian bottleneck the densities are
    fitted to one draw from q(z|x) for each example: to the aggregate posterior. Raises Skip if codes alone cannot be
    decoded to examples.
    """
    _require(trained)
    train, test = (_sample(data, split, n, seed) for split, n in (("train", rows), ("test", samples)))
    if min(len(train), len(test)) < 10:
        raise Skip("needs at least 10 training and 10 test examples that are not blank")
    seen, real = data.rows("train", train), _values(trained, data.arrays("test")["x"][test])
    labels = None if (found := data.labels("train")) is None else found[train]
    codes = posterior(trained, seen, seed)
    if not np.isfinite(codes).all():
        raise Skip("needs finite codes")
    settings = Settings(components, bandwidth, flow_steps, flow_width, seed)
    fitted = {name: fit(trained, codes, labels, name, settings) for name in samplers}
    known = _values(trained, data.arrays("train")["x"][train])
    measured, about, said = _features(trained, data, features)
    near, reference = measured(known), measured(real)
    points = Points(near, "euclidean")
    apart = float(np.mean(-points.search(reference, 1).similarity))
    n, numbers, drawn = len(test), dict[str, float](), {}

    def compare(name: str, x: np.ndarray) -> None:
        own = measured(x)
        precision, recall = precision_and_recall(reference, own, neighbours)
        numbers[f"{name}/fid"] = frechet_distance(reference, own)
        numbers[f"{name}/kid"] = kernel_distance(reference, own)
        numbers[f"{name}/precision"], numbers[f"{name}/recall"] = precision, recall
        numbers[f"{name}/memorisation"] = float(np.mean(-points.search(own, 1).similarity)) / max(apart, 1e-12)

    for name, sampler in fitted.items():
        drawn[name] = _decoded(trained, sampler.codes(n, seed))
        compare(name, drawn[name])
    for name, x in _pca(trained, data, known, n, settings).items():
        compare(f"pca/{name}", x)
    few = near[np.random.default_rng(seed).permutation(len(near))[:n]]
    numbers |= {"test_split/fid": frechet_distance(reference, few), "test_split/kid": kernel_distance(reference, few)}
    numbers["memorisation"] = min(numbers[f"{name}/memorisation"] for name in fitted)
    best = min(fitted, key=lambda name: numbers[f"{name}/fid"])
    view = View(
        trained,
        data,
        train,
        codes,
        drawn,
        best,
        numbers[f"{best}/memorisation"],
        lambda x: points.search(measured(x), 1).rows[:, 0],
    )
    notes = [
        f"fitted to {len(train):,} of {data.spec.train:,} training examples; {n:,} samples of each, against "
        f"{n:,} test examples; test_split is of {len(few):,} training examples",
        f"features: {said}",
        *(["N(0, I) is no prior of this model: a baseline"] if "prior" in fitted and not _has_prior(trained) else []),
    ]
    return Result(
        {f"generation/{name}": value for name, value in numbers.items()},
        {"features": {name: [value] for name, value in about.items()}, "nearest": view.table()},
        view.figures(),
        notes,
        {STORED: pack_all(list(fitted.values()), {"features": about})},
    )


def check(config: Any, spec: Spec) -> Iterator[FieldError]:
    """Errors of the section `uses.generation`."""
    path = config.uses.generation.features
    if path and not _is_classifier(Path(path).expanduser() / "config.json"):
        allowed = "must be a run directory of a classifier of images, such as one of --config=classifier"
        yield FieldError("uses.generation.features", path, allowed)


def _is_classifier(path: Path) -> bool:
    """Whether a config.json is that of a classifier."""
    try:
        config = json.loads(path.read_text())
        return config["pair"]["name"] == "label" or config["finetune"]["name"] == "classifier"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def of_examples(trained: Trained, x: Any, name: str, y: Any, given: dict[str, Any]) -> Sampler:
    """A sampler of the codes of raw examples x [N, ...]; see `Model.sampler`. Raises InputError."""
    own, known = {**chosen(measure, trained.config.uses.generation), **given, "samplers": (name,)}, declared(measure)
    for field, value in own.items():
        if field not in known:
            raise InputError(f"sampler: {field}: no such field; there are {', '.join(known)}")
        raise_all(known[field].check(f"uses.generation.{field}", value))
    trained.check_decodable()
    taken = trained.take(x)
    chosen_rows = _chosen(taken, own["rows"], own["seed"])
    labels = None
    if y is not None:
        numbers = {label: i for i, label in enumerate(trained.spec.classes)}
        labels = np.array([numbers.get(str(label), -1) for label in np.asarray(y).tolist()])
        if len(labels) != taken.shape[0]:
            raise InputError(f"y: {len(labels)} labels of {taken.shape[0]} examples")
        labels = labels[chosen_rows]
    if len(chosen_rows) < 2:
        raise InputError(f"sampler: needs 2 or more examples that are not blank, found {len(chosen_rows)}")
    settings = Settings(*(own[field] for field in Settings._fields))
    return fit(trained, posterior(trained, taken[chosen_rows], own["seed"]), labels, name, settings)


def _require(trained: Trained) -> None:
    if not trained.decodable:
        raise Skip("needs a model that decodes a code alone to an example")
    field, code = trained.spec.x, jax.ShapeDtypeStruct((1, *trained.code_shape), jnp.float32)
    if field.sparse or jax.eval_shape(trained.pure_decode, code).shape[1:] != field.shape:
        raise Skip("needs a model whose output is an image or a table of numbers like its input")


def _has_prior(trained: Trained) -> bool:
    return trained.experiment.has_prior


def _sample(data: Data, split: str, most: int, seed: int) -> np.ndarray:
    return _chosen(data.arrays(split)["x"], most, seed)


def _chosen(x: Any, most: int, seed: int) -> np.ndarray:
    """At most so many rows, drawn at random, in order; of arrays in memory those that are not blank."""
    rows = np.sort(np.random.default_rng(seed).permutation(x.shape[0])[:most])
    return rows[~blanks(np.asarray(x[rows]))]


def _values(trained: Trained, x: Any) -> np.ndarray:
    """Examples as stored on the scale of the decoder's output, not binarised."""
    x = np.asarray(x)
    return trained.target(x / np.float32(255) if x.dtype == np.uint8 else np.nan_to_num(x))


def _decoded(trained: Trained, codes: np.ndarray) -> np.ndarray:
    """Decoded codes on the scale of `_values`; images in [0, 1]."""
    return _shown(trained, trained.map(trained.pure_decode, codes))


def _shown(trained: Trained, x: np.ndarray) -> np.ndarray:
    return np.clip(x, 0, 1) if trained.spec.x.kind == "image" else x


def _features(trained: Trained, data: Data, path: str) -> tuple[Decode, dict[str, Any], str]:
    """Features of examples on the scale of `_values`, what identifies them, and the same in words."""
    labels = data.labels("train")
    labelled = trained.spec.x.kind == "image" and labels is not None and len(np.unique(labels[labels >= 0])) > 1
    if data.classifier is not None and (path or labelled):
        network = data.classifier(path)
        if network.spec.x.kind != "image" or network.spec.x.shape != trained.spec.x.shape:
            raise Skip(f"features = {path!r}: takes other examples than this model")
        units = int(np.prod(network.code_shape))
        about = {"network": path or "classifier", "fingerprint": network.fingerprint, "units": units}
        said = f"code of {units} units of {path or 'a classifier of the labels'}, {network.fingerprint[:8]}"
        return lambda x: network.encode(x).reshape(len(x), -1), about, said
    pca = data.pca(trained, min(COMPONENTS, int(np.prod(trained.spec.x.shape))))
    about = {"network": "pca", "fingerprint": "", "units": pca.n_components_}
    said = f"PCA of the examples with {pca.n_components_} components"
    return lambda x: pca.transform(x.reshape(len(x), -1)), about, said


def _pca(trained: Trained, data: Data, x: np.ndarray, n: int, settings: Settings) -> dict[str, np.ndarray]:
    """n samples each of a Gaussian and a mixture of PCA's scores of training examples x."""
    pca = data.pca(trained)
    scores = pca.transform(x.reshape(len(x), -1))
    made = {name: fit(trained, scores, None, name, settings) for name in ("gaussian", "gmm")}
    return {
        name: _shown(trained, pca.inverse_transform(sampler.points(n, settings.seed)).reshape(n, *x.shape[1:]))
        for name, sampler in made.items()
    }
