"""What a finished run is measured by, and its figures."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from aejax import figures, predict, processes, run_dir
from aejax.data.lazy import chunks
from aejax.evaluators import jacobian, probe, reconstruction, retrieval
from aejax.objective import one_layer
from aejax.steps import State
from aejax.trainer import Trainer


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
    pca = reconstruction.fit_pca(model.target(train), int(np.prod(model.code_shape)))
    pair = model.objective.pair
    if not pair.supervised and (pair.corrupts or not pair.degrades) and reconstruction.compresses(pca):
        results["test/pca_squared_error"] = reconstruction.pca_error(pca, map(model.target, chunks(test)))
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
