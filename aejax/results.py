"""The names of the results: what they mean, and how they are shown."""

from collections.abc import Mapping

ABOUT = {
    "loss": "the objective as trained",
    "reconstruction": "-log p(target | output) in nats, or the squared error where that is the likelihood; summed",
    "error_deviation": "standard deviation of the error over the draws of labels, percent",
    "error": "examples whose most probable class is not the label, percent",
    "squared_error": "squared error, summed over an example",
    "pca_squared_error": "squared error of PCA with as many components as the code has units",
    "pca_angle": "largest angle between the decoder's and PCA's subspace, degrees",
    "elbo": "evidence lower bound, nats",
    "kl": "KL(q(z|x) || p(z)), nats",
    "free_bits": "KL(q(z|x) || p(z)) with at least config.objective.kl.free_bits nats for each unit, nats",
    "psnr": "peak signal-to-noise ratio of the output, mean over images, dB",
    "ssim": "structural similarity of the output, 7x7 windows",
    "input_psnr": "peak signal-to-noise ratio of what the model is given, mean over images, dB",
    "input_ssim": "structural similarity of what the model is given, 7x7 windows",
    "hidden_psnr": "peak signal-to-noise ratio of the output over the hidden part alone, dB",
    "examples_per_second": "in training, median",
    "epochs": "of training, to the parameters that were kept; without the stages",
    "seconds": "of training, with evaluations and checkpoints, all stages; not figures and start",
    "parameters": "numbers of the model, a frozen encoder's too",
    "l1": "sum of |h| over the units",
    "kl_sparse": "KL of the target and the units' mean activation, nats",
    "weight_l2": "half the squared norm of the kernels",
    "code_l2": "squared norm of the code",
    "auxk": "squared error of the error, as the units that are left out decode it",
    "contractive": "squared Frobenius norm of the encoder's Jacobian",
    "contractive_hessian": "squared change of the Jacobian under noise",
    "jacobian_norm": "mean Frobenius norm of the encoder's Jacobian",
    "probe_error": "logistic regression on the codes, percent wrong",
    "precision_at_10": "share of an example's 10 nearest by the codes' cosine that have its label",
    "precision_at_100": "share of an example's 100 nearest by the codes' cosine that have its label",
    "lsa_precision_at_10": "share of the 10 nearest by LSA with as many components as the code has units",
    "lsa_precision_at_100": "share of the 100 nearest by LSA",
    "mean_activation": "mean of |h| over units and examples",
    "activation_p5": "5th percentile over the units of their mean activation",
    "activation_p95": "95th percentile over the units of their mean activation",
    "active_units": "units above 0.01 in an example, mean",
    "dead_units": "units never above 0.01",
}


def table(results: Mapping[str, float]) -> str:
    """The results as lines of name, value and meaning."""
    width = max(map(len, results))
    lines = []
    for name, value in sorted(results.items()):
        lines.append(f"{name:<{width}}  {number(value):>12}  {about(name)}".rstrip())
    return "\n".join(lines)


def number(value: float) -> str:
    """As it is shown."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}" if abs(value) < 10 else f"{value:.3f}"


def about(name: str) -> str:
    """Meaning and unit of a result; "" where nothing is known of it."""
    part, _, term = name.rpartition("/")
    said = ABOUT.get(term, "") + (", nothing corrupted" if part.endswith("/clean") else "")
    if part.startswith("stage_"):
        said += f"; of the {'input' if part == 'stage_0' else 'code below'}, test split"
    return said
