"""The meaning of the results by name, and how they are shown."""

import math
import re
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from aejax.uses import USES

PARTS = re.compile(r"(\D*)(\d+(?:\.\d+)?|$)")  # text and number, in turn
DEVIATION = "_std"  # of a population, after the name of a result: the sample standard deviation over its members
# Numbers of the step and of a run; each use says what its own mean.
ABOUT = {
    "loss": "the objective as trained",
    "members": "models whose numbers these are: mean ± sample standard deviation",
    "settings": "settings of the members; the numbers are over all of them, the figure and the table show each",
    "searched": "settings that the search drew; the numbers are those of the best one by validation",
    "best_member": "member with the smallest validation loss, of a classifier the smallest error",
    "reconstruction": "negative log-likelihood of the target in nats (likelihood squared_error: squared error), summed",
    "error_deviation": "standard deviation of the error over the draws of labels, percent",
    "error": "labels (of a sequence: tokens) that are not the most probable class, percent",
    "squared_error": "squared error, summed over an example",
    "elbo": "evidence lower bound, nats",
    "kl": "KL(q(z|x) || p(z)), nats",
    "free_bits": "KL(q(z|x) || p(z)) with at least config.objective.kl.free_bits nats for each unit, nats",
    "psnr": "peak signal-to-noise ratio of the output, mean over images, dB",
    "ssim": "structural similarity of the output, 7x7 windows",
    "input_psnr": "peak signal-to-noise ratio of the input, mean over images, dB",
    "input_ssim": "structural similarity of the input, 7x7 windows",
    "hidden_psnr": "peak signal-to-noise ratio of the output over the hidden part alone, dB",
    "examples_per_second": "examples per second of training, median",
    "epochs": "epochs of the final training, up to the kept checkpoint",
    "seconds": "seconds of training, with evaluations, checkpoints and all stages; without start-up and figures",
    "parameters": "parameters of the model, frozen ones included",
    "l1": "sum of |h| over the units",
    "contrastive_divergence": "difference of free energies, nats",
    "discriminate_loss": "loss of the discriminator, nats; 1.386 if it cannot tell the codes from the prior",
    "deceive_loss": "loss of the encoder against the discriminator, nats; 0.693 if that cannot tell the codes",
    "kl_clusters": "KL of the target and the assignment to the clusters, nats",
    "changed_labels": "share of the training examples whose cluster has changed since the last refresh",
    "kl_sparse": "KL of the target and the units' mean activation, nats",
    "weight_l2": "half the squared norm of the kernels",
    "code_l2": "squared norm of the code",
    "auxk": "squared error of the residual as decoded by unused units",
    "contractive": "squared Frobenius norm of the encoder's Jacobian",
    "contractive_hessian": "squared change of the Jacobian under noise",
    "mean_activation": "mean of |h| over units and examples",
    "activation_p5": "5th percentile over the units of their mean activation",
    "activation_p95": "95th percentile over the units of their mean activation",
    "active_units": "units above 0.01 in an example, mean; of a gaussian code, those whose mean varies (above 0.01)",
    "dead_units": "units never above 0.01; of a gaussian code those that are not active",
}

TILES = (
    r"(pretrained|random)_\d+/error",
    "test/error",
    "anomaly/(vus_pr|auroc|average_precision|threshold|flagged)",
    "clustering/[^/]+/ari",
    "manifold/(dimension|log_likelihood)",
    "generation/[^/]+/fid",
    "retrieval/(precision_at_100|map)",
    "test/precision_at_10",
    "test/elbo",
    "test/clean/squared_error",
    "test/squared_error",
    "test/hidden_psnr",
    "test/psnr",
    "test/ssim",
    "test/probe_error",
    "test/reconstruction",
    "test/jacobian_norm",
    "test/pca_angle",
    "clustering/[^/]+/silhouette",
    r"(?!(test|validation|(stage|pretrained|random)_\d+)/)\w+/[^/]+",  # of a use
    "test/loss",
)  # patterns of results: the first six that a run has are its headline
BASELINES = {
    r"test/(clean/)?squared_error": ("PCA", "test/pca_squared_error"),
    "test/precision_at_10": ("SVD", "test/lsa_precision_at_10"),
    r"test/(psnr|ssim)": ("input", r"test/input_\1"),
    r"pretrained_(\d+)/error": ("random parameters", r"random_\1/error"),
}  # pattern of a result -> the baseline on its tile, and the baseline's result


def table(results: Mapping[str, float], likelihood: str = "") -> str:
    """The results as lines of name, value and meaning."""
    names = named(results)
    values = [spread(results[name], results.get(name + DEVIATION)) for name in names]
    width, wide = max(map(len, names)), max(12, *map(len, values))
    rows = zip(names, values, strict=True)
    return "\n".join(f"{name:<{width}}  {value:>{wide}}  {about(name, likelihood)}".rstrip() for name, value in rows)


def named(results: Mapping[str, float]) -> list[str]:
    """The names of the results in order, numbers in them by size, without the deviations of others."""
    names = (name for name in results if name.removesuffix(DEVIATION) == name or name[: -len(DEVIATION)] not in results)
    return sorted(names, key=lambda name: [(text, float(n or 0)) for text, n in PARTS.findall(name)])


def spread(mean: float, deviation: float | None = None) -> str:
    """A mean, with ± its deviation if there is one, both to two digits of the deviation."""
    if not deviation or deviation < 1e-9 * abs(mean):  # rounding
        return number(mean)
    digits = 1 - math.floor(math.log10(deviation))
    if digits > 6:
        return f"{mean:.4g} ± {deviation:.2g}"
    return " ± ".join(f"{value:.{max(digits, 0)}f}" for value in (mean, deviation))


def number(value: float) -> str:
    """A number as it is shown."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}" if abs(value) < 10 else f"{value:.3f}"


def likelihood(config: ConfigDict) -> str:
    """The likelihood of a config, and after a blank what comes on top, for `table` and `about`."""
    onehot = config.data.categorical == "onehot"
    return f"{config.objective.likelihood}{' plus the cross-entropy of each one-hot column' if onehot else ''}"


def about(name: str, likelihood: str = "") -> str:
    """Meaning and unit of a result; "" for an unknown name."""
    part, _, term = name.rpartition("/")
    first = name.partition("/")[0]
    own = first if first in USES and term in USES[first].metrics else ""
    said = _of_uses(term, own) if own else ABOUT.get(term, "") or _of_uses(name) or _of_uses(term, first)
    if term == "reconstruction" and likelihood and not part.startswith("stage_"):
        family, _, more = likelihood.partition(" ")
        said = "squared error, summed" if family == "squared_error" else f"-log p of the {family} likelihood, nats"
        said += f"; {more}" if more else ""
    if term.startswith("kl_unit_"):
        said = "KL of a unit of the code, nats"
    said += ", nothing corrupted" if part.endswith("/clean") else ""
    if part.startswith("stage_"):
        said += f"; of the {'input' if part == 'stage_0' else 'code below'}, test split"
    return said


def _of_uses(term: str, first: str = "") -> str:
    """What a use says of a number; `first`: the use whose word counts before that of others."""
    for use in (*([USES[first]] if first in USES else []), *USES.values()):
        if term in use.metrics:
            metric = use.metrics[term]
            return metric.about + (f", {metric.unit}" if metric.unit and metric.unit not in metric.about else "")
    return ""


def headline(measured: Mapping[str, float]) -> list[str]:
    """The headline results: no baseline, and no number twice, such as a loss = −ELBO."""
    compared = {other for name in measured for other in baselines(name, measured).values()}
    names: list[str] = []
    for name in (name for tile in TILES for name in measured if re.fullmatch(tile, name)):
        if name not in compared and not any(np.isclose(abs(measured[name]), abs(measured[other])) for other in names):
            names.append(name)
    return names[:6]


def baselines(name: str, measured: Mapping[str, float]) -> dict[str, str]:
    """The baselines of the result `name` that the run has: label -> name of the baseline's result."""
    part, _, metric = name.rpartition("/")
    found = {
        label: re.sub(pattern, other, name)
        for pattern, (label, other) in BASELINES.items()
        if re.fullmatch(pattern, name)
    }
    if name == "test/squared_error" and "test/clean/squared_error" in measured:
        found = {}  # PCA sees the whole, uncorrupted example
    if part != "test":  # USE/BASELINE/metric, or USE/BASELINE/METHOD/metric
        use, _, rest = name.partition("/")
        between = (re.escape(use) + "/([^/]+)/" + re.escape(rest), re.escape(part) + "/([^/]+)/" + re.escape(metric))
        found |= {m[1]: other for pattern in between for other in measured if (m := re.fullmatch(pattern, other))}
    return {label: other for label, other in found.items() if other in measured}
