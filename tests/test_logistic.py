"""Logistic regression on the device beside scikit-learn's."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from aejax.uses.probe import logistic
from aejax.uses.probe import measure as probe

STRENGTHS = (1e-3, 1e-1, 1.0)


def digits():
    x, y = load_digits(return_X_y=True)
    return (x.astype(np.float32) - x.mean(0, dtype=np.float32)) / np.float32(x.std(0).max()), y


def loss(model, x, y, strength):
    """scikit-learn's objective, of its own or of other weights."""
    entropy = -np.log(model.predict_proba(x)[np.arange(len(y)), y]).sum()
    return strength * entropy + 0.5 * (model.coef_**2).sum()


@pytest.mark.parametrize("classes", [2, 10])
def test_it_is_the_optimum_of_scikit_learn(classes):
    x, y = digits()
    y = y if classes == 10 else (y > 4).astype(int)
    for strength, weights in zip(STRENGTHS, logistic.fit(x[:1200], y[:1200], classes, STRENGTHS), strict=True):
        model = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000).fit(x[:1200].astype(float), y[:1200])
        least = loss(model, x[:1200], y[:1200], strength)
        expected = model.predict(x[1200:])
        assert np.mean(logistic.predict(weights, x[1200:]) != expected) <= 0.002
        model.coef_, model.intercept_ = weights[:-1].T, weights[-1]
        assert loss(model, x[:1200], y[:1200], strength) == pytest.approx(least, rel=1e-4)
        assert (model.predict(x) == logistic.predict(weights, x)).all()


def test_a_start_does_not_move_the_optimum():
    x, y = digits()
    (start,) = logistic.fit(x[:600], y[:600], 10, (1.0,))
    (a,), (b,) = logistic.fit(x[:1200], y[:1200], 10, (0.1,)), logistic.fit(x[:1200], y[:1200], 10, (0.1,), start)
    np.testing.assert_allclose(a, b, atol=0.01 * np.abs(a).max())


def test_a_class_of_the_test_split_alone_is_always_wrong():
    x, y = digits()
    known = y[:1200] < 9
    found = probe.error(x[:1200][known], y[:1200][known], x[1200:], y[1200:])
    assert found["test/probe_error"] > 100 * np.mean(y[1200:] == 9)
