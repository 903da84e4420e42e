"""Clustering: how well clusters of the codes agree with the labels, beside clusters of the values and of PCA."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from scipy import sparse

from aejax.data.bags import blanks
from aejax.data.lazy import chunks
from aejax.data.spec import Spec
from aejax.errors import FieldError, InputError, raise_all
from aejax.fields import Allowed, Field, at_least, chosen, declared, one_of, within
from aejax.trained import Trained
from aejax.uses.base import Metric, Result, Skip
from aejax.uses.clustering.clusters import SCALES, STORED, Clusters, fit_all, scaling
from aejax.uses.clustering.embedding import NEEDED, installed
from aejax.uses.clustering.partitions import COVARIANCES, METHODS, USUAL, Assigned, Settings, fit
from aejax.uses.clustering.view import View, matching
from aejax.uses.data import Data
from aejax.uses.spaces import codes as encoded
from aejax.uses.spaces import names, projected, weigh

SEVERAL = Allowed("be 0 or at least 2", lambda v: v == 0 or v >= 2)
COMPARED = 5000  # most examples of which a silhouette is computed
METRICS = {
    "acc": Metric(
        "share of the test examples whose cluster is matched to their label, under the best matching", "", "higher"
    ),
    "nmi": Metric("mutual information of clusters and labels over the mean of their entropies", "", "higher"),
    "ari": Metric("adjusted Rand index of clusters and labels; 0 = by chance, 1 = the same", "", "higher"),
    "silhouette": Metric(
        "mean silhouette of the test examples in the space that is clustered, in [-1, 1]", "", "higher"
    ),
    "clusters": Metric("clusters that hdbscan finds in the training split"),
    "noise": Metric("share of the test examples that hdbscan calls noise"),
}


def measure(
    trained: Trained,
    data: Data,
    *,
    methods: Annotated[
        tuple,
        Field(
            "methods: kmeans, gmm (Gaussian mixture), hdbscan, centres (those that the model was trained with), n2d "
            "(Gaussian mixture of a UMAP embedding); predict uses the first",
            Allowed(
                lambda: f"be a tuple of at least one of {', '.join(METHODS)}",
                lambda v: v != () and set(v) <= set(METHODS),
            ),
        ),
    ] = USUAL,
    clusters: Annotated[
        int,
        Field(
            "number of clusters of kmeans and gmm; 0 = the number of classes, or see `most`",
            SEVERAL,
        ),
    ] = 0,
    most: Annotated[
        int,
        Field(
            "without `clusters`: choose their number from 2 to so many by the silhouette of kmeans; 0 = off",
            SEVERAL,
        ),
    ] = 0,
    scale: Annotated[
        str,
        Field(
            "codes before they are clustered: none | length (z / ‖z‖, so that directions are compared) | deviation "
            "(each unit has mean 0 and deviation 1)",
            one_of(SCALES),
        ),
    ] = "none",
    rows: Annotated[
        int,
        Field(
            "most training examples that the methods are fitted to; hdbscan needs memory for rows² numbers", at_least(2)
        ),
    ] = 5_000,
    restarts: Annotated[int, Field("kmeans and gmm start so many times; the best fit is kept", at_least(1))] = 10,
    seed: Annotated[int, Field("seed of the initialisations", within(0, 2**32, brackets="[)"))] = 0,
    covariance: Annotated[
        str, Field("covariances of gmm: full | diag | auto (full up to 100 columns, else diag)", one_of(COVARIANCES))
    ] = "auto",
    min_cluster_size: Annotated[
        int,
        Field(
            "hdbscan: fewest members of a cluster; 0 = 1 % of the fitted examples, at least 5",
            SEVERAL,
        ),
    ] = 0,
    min_samples: Annotated[
        int, Field("hdbscan: an example is in a dense region if so many, itself included, are near", at_least(1))
    ] = 5,
    components: Annotated[
        int, Field("n2d: dimensions of the UMAP embedding; 0 = the number of clusters", at_least(0))
    ] = 0,
    neighbours: Annotated[int, Field("n2d: neighbours of each example in UMAP", at_least(2))] = 20,
) -> Result:
    """Clusters are fitted to the training split without its labels; the test split is assigned to them and measured.

    `clustering/METHOD/{acc,nmi,ari,silhouette}` by the code; the same under `clustering/pixels/METHOD/` (tables:
    `columns`, texts: `words`) by the values and under `clustering/pca/METHOD/` (texts: `lsa`) with as many components
    as the code has units. Without labels of the test split only the silhouette is measured. For hdbscan also
    `clusters` and `noise`; noise counts as one more cluster in acc, nmi and ari, and is left out of the silhouette.
    Raises Skip if no code can be clustered.
    """
    train, test = data.arrays("train")["x"], data.arrays("test")["x"]
    fitted, known = _sample(train, rows, seed), _known(test)
    examples = train[fitted], test[known]
    codes, asked = (encoded(trained, x) for x in examples)
    if not len(known) or not np.isfinite(codes).all():
        raise Skip("needs test examples that are not blank, and finite codes")
    number, notes, tables = clusters or len(data.spec.classes), list[str](), {}
    how = Settings(number, restarts, seed, covariance, min_cluster_size, min_samples, components, neighbours)
    if not clusters and most and _numbered(methods):
        how, tables["numbers"] = choose(codes, how, most, scale)
        notes.append(
            f"{how.clusters} clusters: the largest silhouette of kmeans on the training codes, from 2 to {most}"
        )
    made, said = fit_all(trained, codes, methods, how, scale)
    notes = [
        *notes,
        f"fitted to {len(fitted):,} of {data.spec.train:,} training examples, measured on {len(known):,} test examples",
        *([f"{n:,} blank test examples are left out"] if (n := test.shape[0] - len(known)) else []),
        *said,
    ]
    labels = data.labels("test")
    truth = None if labels is None or not (labels[known] >= 0).any() else labels[known]
    if truth is None:
        notes.append("the test split has no labels: only the silhouette is measured")
    placed, numbers = made.place(asked), dict[str, float]()
    found = {method: made.partitions[method].assign(placed) for method in methods}
    for method in methods:
        numbers |= _numbers("", method, placed, found[method], truth, len(made.partitions[method]))
    values = weigh(*examples)
    kind, projection = names(data.spec.x)
    for name, parts in ((kind, values), (projection, projected(trained, data, examples, values, codes.shape[1]))):
        points, asked = map(_filled, parts)
        valued = [method for method in methods if METHODS[method].values]
        own = [method for method in valued if METHODS[method].sparse or not sparse.issparse(points)]
        if len(own) < len(valued):
            notes.append(f"{name}: sparse values are clustered by kmeans alone")
        for method in own:
            partition, said = fit(points, method, how)
            notes += [f"{name}/{line}" for line in said]
            numbers |= _numbers(f"{name}/", method, asked, partition.assign(asked), truth, len(partition))
    view = View(made, data, known, placed, found, truth, _filled(values[1]))
    return Result(
        {f"clustering/{name}": value for name, value in numbers.items()},
        {"clusters": view.table(), **tables},
        view.figures(),
        notes,
        {STORED: made.stored()},
    )


def check(config: Any, spec: Spec) -> Iterator[FieldError]:
    """Errors of the section `uses.clustering` on data of `spec`."""
    own = config.uses.clustering
    if "centres" in own.methods and config.method.name != "clustering":
        allowed = "takes 'centres' only from a model of method.name = 'clustering'"
        yield FieldError("uses.clustering.methods", tuple(own.methods), allowed)
    if "centres" in own.methods and own.scale != "none":
        allowed = "must be 'none' with the method 'centres', which are codes as they are"
        yield FieldError("uses.clustering.scale", own.scale, allowed)
    if "n2d" in own.methods and not installed():
        yield FieldError("uses.clustering.methods", tuple(own.methods), NEEDED)
    if not _numbered(own.methods):
        return
    number, field, most = own.clusters or own.most or len(spec.classes), "clusters", min(own.rows, spec.train)
    if number < 2:
        allowed = "must be at least 2, since there are no labels to count; or let uses.clustering.most choose it"
        yield FieldError("uses.clustering.clusters", own.clusters, allowed)
    elif number > most:
        field = "clusters" if own.clusters or not own.most else "most"
        yield FieldError(
            f"uses.clustering.{field}", number, f"must be at most {most:,}, the training examples that are clustered"
        )


def of_examples(trained: Trained, x: Any, number: int, method: str, given: Mapping[str, Any]) -> Clusters:
    """Clusters of raw examples x [N, ...]; see `Model.clusters`. Raises InputError."""
    own, known = {**chosen(measure, trained.config.uses.clustering), **given}, declared(measure)
    own["methods"] = (method,) if method else own["methods"][:1]
    own["clusters"] = number or own["clusters"]
    for name, value in own.items():
        if name not in known:
            raise InputError(f"clusters: {name}: no such field; there are {', '.join(known)}")
        raise_all(known[name].check(f"uses.clustering.{name}", value))
    if "centres" in own["methods"] and ("clusters" not in trained.params or own["scale"] != "none"):
        raise InputError(
            "clusters: method = 'centres': needs a model of method.name = 'clustering', and scale = 'none'"
        )
    if "n2d" in own["methods"] and not installed():
        raise InputError(f"clusters: method = 'n2d': {NEEDED}")
    taken = trained.take(x)
    rows = _sample(taken, own["rows"], own["seed"])
    how = Settings(own["clusters"] or len(trained.spec.classes), *(own[name] for name in Settings._fields[1:]))
    return fit_all(trained, encoded(trained, taken[rows]), own["methods"], how, own["scale"])[0]


def choose(codes: np.ndarray, how: Settings, most: int, scale: str) -> tuple[Settings, dict[str, list[Any]]]:
    """The number of clusters in [2, most] with the largest silhouette of k-means on codes [n, d], Rousseeuw (1987); and
    the silhouette of each number."""
    points, table = scaling(codes, scale).apply(codes), dict[str, list[Any]](clusters=[], silhouette=[])
    for number in range(2, min(most, len(points) - 1) + 1):
        made, _ = fit(points, "kmeans", how._replace(clusters=number))
        table["clusters"].append(number)
        table["silhouette"].append(silhouette(points, made.assign(points).cluster))
    return how._replace(clusters=table["clusters"][int(np.nanargmax(table["silhouette"]))]), table


def _numbers(
    name: str, method: str, points: Any, found: Assigned, truth: np.ndarray | None, count: int
) -> dict[str, float]:
    """The measures of test points [N, D] by the name METHOD/MEASURE, after the name of their space."""
    numbers = {"silhouette": silhouette(points, found.cluster)}
    if truth is not None:
        labelled = truth >= 0
        numbers |= agreement(truth[labelled], found.cluster[labelled])
    if method == "hdbscan":
        numbers |= {"clusters": count, "noise": float((found.cluster < 0).mean())}
    return {f"{name}{method}/{term}": value for term, value in numbers.items() if np.isfinite(value)}


def agreement(truth: np.ndarray, cluster: np.ndarray) -> dict[str, float]:
    """acc, nmi and ari of clusters and labels [N]; -1 is a cluster like others.

    acc: max over one-to-one matchings m of clusters and labels of mean(truth = m(cluster)), by the Hungarian method
    (Kuhn 1955). nmi: I(C; Y) / ((H(C) + H(Y)) / 2). ari: Hubert & Arabie (1985).
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    pairs = matching(truth, cluster)
    return {
        "acc": float(np.mean([pairs.get(k) == y for k, y in zip(cluster.tolist(), truth.tolist(), strict=True)])),
        "nmi": float(normalized_mutual_info_score(truth, cluster)),
        "ari": float(adjusted_rand_score(truth, cluster)),
    }


def silhouette(points: Any, cluster: np.ndarray) -> float:
    """Mean silhouette of at most COMPARED points [N, D] without noise; NaN if they are of fewer than two clusters."""
    from sklearn.metrics import silhouette_score

    rows = np.flatnonzero(cluster >= 0)[:COMPARED]
    if not 2 <= len(np.unique(cluster[rows])) < len(rows):
        return float("nan")
    return float(silhouette_score(points[rows], cluster[rows]))


def _numbered(methods: Sequence[str]) -> bool:
    """Whether one of the methods needs the number of clusters."""
    return any(METHODS[method].numbered for method in methods)


def _sample(x: Any, most: int, seed: int) -> np.ndarray:
    """At most so many rows that are not blank, in order."""
    return np.sort(np.random.default_rng(seed).permutation(_known(x))[:most])


def _known(x: Any) -> np.ndarray:
    """The rows that are not blank."""
    if sparse.issparse(x) or x.dtype.kind != "f":
        return np.flatnonzero(~blanks(x))
    return np.flatnonzero(~np.concatenate([blanks(part) for part in chunks(x)]))


def _filled(x: Any) -> Any:
    """Values [n, D] as they are clustered: pixels in [0, 1]; a missing value is 0, the mean of its column."""
    if sparse.issparse(x):
        return sparse.csr_array(x)
    return x / np.float32(255) if x.dtype == np.uint8 else np.nan_to_num(x)
