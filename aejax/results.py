"""What a finished run leaves: numbers and figures."""

from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from aejax import figures, predict, processes, run_dir
from aejax.evaluators import jacobian, probe, reconstruction, retrieval
from aejax.objective import one_layer
from aejax.steps import State
from aejax.trainer import Trainer

ABOUT = {
    "loss": "the objective as trained",
    "reconstruction": "-log p(target | output), summed over an example",
    "error_deviation": "its standard deviation over the draws of labels, percent",
    "error": "examples whose most probable class is not the label, percent",
    "squared_error": "squared error, summed over an example",
    "pca_squared_error": "the same of PCA with as many components as the code has units",
    "pca_angle": "largest angle between the decoder's and PCA's subspace, degrees",
    "elbo": "evidence lower bound, nats",
    "kl": "KL(q(z|x) || p(z)), nats",
    "free_bits": "the same with at least config.objective.kl.free_bits nats for each unit, nats",
    "psnr": "peak signal-to-noise ratio of the output, mean over images, dB",
    "ssim": "structural similarity of the output, 7x7 windows",
    "input_psnr": "the same of what the model is given, dB",
    "input_ssim": "the same of what the model is given",
    "hidden_psnr": "the same over the hidden part alone, dB",
    "examples_per_second": "in training, median",
    "seconds": "of training, evaluation and saving",
    "parameters": "trained numbers",
    "l1": "sum of |h| over the units",
    "kl_sparse": "KL of the target and the units' mean activation, nats",
    "weight_l2": "half the squared norm of the kernels",
    "code_l2": "squared norm of the code",
    "contractive": "squared Frobenius norm of the encoder's Jacobian",
    "contractive_hessian": "squared change of the Jacobian under noise",
    "jacobian_norm": "mean Frobenius norm of the encoder's Jacobian",
    "probe_error": "logistic regression on the codes, percent wrong",
    "precision_at_10": "share of an example's 10 nearest by the codes' cosine that have its label",
    "precision_at_100": "the same of its 100 nearest",
    "lsa_precision_at_10": "the same of LSA with as many components as the code has units, 10 nearest",
    "lsa_precision_at_100": "the same of LSA, 100 nearest",
    "mean_activation": "mean of |h| over units and examples",
    "activation_p5": "5th percentile over the units of their mean activation",
    "activation_p95": "95th percentile over the units of their mean activation",
    "active_units": "units above 0.01 in an example, mean",
    "dead_units": "units never above 0.01",
}


def finish(trainer: Trainer, state: State, path: Path) -> dict[str, float]:
    """The results of a state, by name, and the figures of the run; in the first process, the others help."""
    config, data = trainer.config, trainer.data
    results = {f"test/{name}": value for name, value in trainer.evaluate(state, "test").items()}
    if data.spec.validation:
        held_out = trainer.evaluate(state, "validation")
        results |= {f"validation/{name}": value for name, value in held_out.items()}
    state = trainer.gather(state)
    if not processes.first():
        return results
    model = predict.Trained(config, data.spec, state)
    # As the model sees them: binarised where the config says so.
    train, test = trainer.examples()
    scaled = [np.asarray(model.objective.likelihood.target(jnp.asarray(x))) for x in (train, test)]
    pca = reconstruction.fit_pca(scaled[0], int(np.prod(model.code_shape)))
    if not model.objective.pair.supervised:
        projected = reconstruction.pca_reconstruct(pca, scaled[1])
        results["test/pca_squared_error"] = reconstruction.squared_error(scaled[1], projected)
        if is_linear(config):
            angle = reconstruction.pca_angle(pca, model.params["decoder"])
            results |= {} if angle is None else {"test/pca_angle": angle}
    results["parameters"] = model.parameters
    if config.evaluate.probe:
        # The codes of the examples themselves: neither corrupted nor binarised.
        codes = [model.map(model.pure_encode, split["x"]) for split in (data.train, data.test)]
        results |= probe.error(codes[0], data.train["y"], codes[1], data.test["y"])
    if config.evaluate.retrieval:
        points = model.map(model.pure_encode, data.test["x"])
        results |= retrieval.precision(points, data.train["x"], data.test["x"], data.test["y"])
    if config.evaluate.jacobian:
        results["test/jacobian_norm"] = float(jacobian.norms(model, test).mean())
    if config.figures.enabled:
        figures.draw(model, data, test, pca, run_dir.read_metrics(path), path / run_dir.FIGURES)
    return results


def is_linear(config: ConfigDict) -> bool:
    """Whether the code is a linear function of the input."""
    return one_layer(config) and bool(config.model.code_activation == "identity")


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
    return ABOUT.get(name.split("/")[-1], "") + (", nothing corrupted" if "/clean/" in name else "")
