"""Logistic regression on fixed codes: how well a linear classifier reads the labels from them."""

import numpy as np

from aejax.trained import Trained
from aejax.uses.base import Metric, Result
from aejax.uses.data import Data
from aejax.uses.probe.logistic import fit, predict

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # inverse of the L2 penalty, chosen on a sixth of the training codes
ROUGH, FINE = 5e-4, 1e-4  # tolerances of the fits that choose the strength, and of the final fit
METRICS = {"probe_error": Metric("logistic regression on the codes, percent wrong", "percent", "lower")}


def measure(trained: Trained, data: Data) -> Result:
    """`test/probe_error` and `validation/probe_error`; the codes are of clean examples, not binarised."""
    data.require_labels(("train", "test"))
    codes = [trained.map(trained.pure_encode, data.arrays(split)["x"]) for split in ("train", "test")]
    return Result(error(codes[0], data.arrays("train")["y"], codes[1], data.arrays("test")["y"]))


def error(codes: np.ndarray, labels: np.ndarray, test_codes: np.ndarray, test_labels: np.ndarray) -> dict[str, float]:
    """Percent of test examples misclassified, and of the held-out training part at the chosen strength.

    Codes [N, ...] are standardised with the training mean and one common deviation, which keeps their relative
    scales. The L2 strength is chosen on a sixth of the training codes, a fixed random draw since a source may be
    ordered by class; then the classifier is trained on all of them. Examples without a label (-1) are left out.
    """
    codes, labels = _labelled(codes, labels)
    test_codes, test_labels = _labelled(test_codes, test_labels)
    mean, scale = codes.mean(0), max(float(codes.std(0).max()), 1e-12)
    codes, test_codes = (codes - mean) / scale, (test_codes - mean) / scale
    names, y = np.unique(labels, return_inverse=True)
    held, kept = np.split(np.random.RandomState(0).permutation(len(codes)), [max(len(codes) // 6, 1)])
    weights = fit(codes[kept], y[kept], len(names), STRENGTHS, tolerance=ROUGH)
    errors = [_wrong(names[predict(one, codes[held])], labels[held]) for one in weights]
    best = int(np.argmin(errors))
    (classifier,) = fit(codes, y, len(names), STRENGTHS[best : best + 1], weights[best], FINE)
    return {
        "test/probe_error": _wrong(names[predict(classifier, test_codes)], test_labels),
        "validation/probe_error": errors[best],
    }


def _labelled(codes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = labels >= 0
    return codes.reshape(len(codes), -1)[known].astype(np.float32), labels[known]


def _wrong(found: np.ndarray, labels: np.ndarray) -> float:
    return 100 * float((found != labels).mean())
