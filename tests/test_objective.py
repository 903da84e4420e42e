"""The objective: its terms, their weights, and the bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import aejax
from aejax import run as run_lib
from aejax.data import sources
from common import VAE, images, metrics, small, trainer


def test_elbo_is_unweighted():
    run = trainer(small(**VAE, objective__kl__weight=4.0), images())
    found = run.evaluate(run.init(), "test")
    assert found["elbo"] == pytest.approx(-found["reconstruction"] - found["kl"])
    assert found["loss"] == pytest.approx(found["reconstruction"] + 4 * found["kl"], rel=1e-5)


@pytest.mark.slow
def test_weights_between_0_and_1_are_no_bound():
    for weights, bound in (({}, True), ({"beta": 0.0}, True), ({"alpha": 2.0}, False), ({"beta": 0.5}, False)):
        fields = {f"pair__denoise__{name}": value for name, value in weights.items()}
        run = trainer(small(**VAE, pair__name="denoise", **fields), images())
        assert run.experiment.objective.has_elbo is bound
        assert ("elbo" in run.evaluate(run.init(), "test")) is bound


def test_free_bits_are_trained_on_and_the_elbo_is_without():
    run = trainer(small(**VAE, objective__kl__free_bits=0.7, objective__kl__weight=0.5), images())
    measured = run.evaluate(run.init(), "test")
    assert measured["free_bits"] >= 3 * 0.7 - 1e-6
    np.testing.assert_allclose(measured["loss"], measured["reconstruction"] + 0.5 * measured["free_bits"], rtol=1e-6)
    np.testing.assert_allclose(measured["elbo"], -measured["reconstruction"] - measured["kl"], rtol=1e-6)
    plain = trainer(small(**VAE, objective__kl__weight=0.5), images())
    assert plain.evaluate(plain.init(), "test")["kl"] == measured["kl"]
    assert "free_bits" not in plain.evaluate(plain.init(), "test")


@pytest.mark.slow
def test_learned_sigma_is_the_error_per_entry():
    # d/dσ of Σ_j (t − r)² / 2σ² + log σ is 0 where σ² is the mean squared error per entry.
    run = trainer(small(objective__likelihood="gaussian", objective__learn_sigma=True), images())
    state = run.init()
    entries = np.prod(run.data.spec.x.shape)
    sigma = np.sqrt(run.evaluate(state, "test")["squared_error"] / entries)
    state.params["head"]["log_sigma"] = jnp.asarray(np.log(sigma), jnp.float32)
    batch = {"x": jnp.asarray(run.data.test["x"])}

    def loss(log_sigma):
        params = state.params | {"head": {"log_sigma": log_sigma}}
        terms, _ = run.experiment.objective.terms(params, {}, batch, key=jax.random.key(0), step=state.step)
        return terms["reconstruction"].mean()

    value, gradient = jax.value_and_grad(loss)(state.params["head"]["log_sigma"])
    assert abs(gradient) < 1e-4 * entries
    np.testing.assert_allclose(value, entries * (0.5 + np.log(sigma) + np.log(2 * np.pi) / 2), rtol=1e-4)


@pytest.mark.slow
def test_learned_sigma_is_found_by_training(tmp_path):
    config = small(objective__likelihood="gaussian", objective__learn_sigma=True, train__epochs=60)
    run_lib.run(config, tmp_path / "run")
    model, x = aejax.load(tmp_path / "run"), sources.load(config).train["x"]
    error = ((model.reconstruct(x) - x) ** 2).mean()
    np.testing.assert_allclose(np.exp(2 * model.params["head"]["log_sigma"]), error, rtol=0.02)


def test_auxiliary_loss_is_of_training_alone(tmp_path):
    topk = {f"model__bottleneck__topk__{field}": 1 for field in ("k", "begin", "test")}
    config = small(
        model__bottleneck__name="topk", objective__likelihood="squared_error", objective__auxk__weight=1.0, **topk
    )
    found = run_lib.run(config, tmp_path / "a", sources.from_array(images(), config))
    assert "test/auxk" not in found
    assert found["test/loss"] == pytest.approx(found["test/reconstruction"])
    assert all("auxk" in line for line in metrics(tmp_path / "a") if line["split"] == "train")
