"""Contrastive divergence against sums over the hidden units, and against its definition."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logsumexp

from aejax.losses import Forward
from aejax.methods import contrastive
from aejax.models import ACTIVATIONS, Code, Context
from aejax.pairs import example


def machine(units, *, binary=True, n=5, d=4, dtype=np.float64):
    """The forward pass of a restricted Boltzmann machine with random parameters and inputs."""
    rng = np.random.default_rng(1)
    params = {
        "encoder": {"layers_0": {"kernel": rng.standard_normal((d, units)), "bias": rng.standard_normal(units)}},
        "decoder": {"layers_0": {"bias": rng.standard_normal(d)}},
    }
    v = jnp.asarray(rng.uniform(size=(n, d)), dtype)
    code = Code(jnp.zeros((n, units)), jnp.zeros((n, units)), {}, (), Context(), {})
    activation = ACTIVATIONS["sigmoid" if binary else "identity"]
    given = jax.tree.map(jnp.asarray, params), jax.random.key(3), jnp.zeros(())
    forward = Forward(lambda x: code, example(v, v), code, *given, activation=activation)
    return forward, params, np.asarray(v)


def gibbs(params, v, keys, *, binary):
    """v after a step for each key: hidden units drawn, visible ones at their mean."""
    w, c, b = (
        params["encoder"]["layers_0"]["kernel"],
        params["encoder"]["layers_0"]["bias"],
        params["decoder"]["layers_0"]["bias"],
    )
    for key in keys:
        a = v @ w + c
        h = (
            jax.random.bernoulli(key, jnp.asarray(expit(a)))
            if binary
            else a + np.asarray(jax.random.normal(key, a.shape))
        )
        v = expit(np.asarray(h, np.float64) @ w.T + b)
    return v


@pytest.mark.parametrize("binary", [True, False])
def test_the_free_energy_sums_out_the_hidden_units(binary):
    with jax.enable_x64(True):
        forward, params, v = machine(3, binary=binary)
        last = gibbs(params, v, jax.random.split(jax.random.key(3), 2), binary=binary)
        w, c, b = (
            params["encoder"]["layers_0"]["kernel"],
            params["encoder"]["layers_0"]["bias"],
            params["decoder"]["layers_0"]["bias"],
        )

        def energy(v):
            if binary:  # −log Σ_h exp(b·v + c·h + v W h) over every h
                states = np.array(list(itertools.product((0, 1), repeat=3)))
                return -v @ b - logsumexp(states @ (v @ w + c).T, axis=0)
            # −log ∫ exp(b·v + a·h − h²/2) dh, by quadrature, without the constant ½ log 2π of each unit
            grid = np.linspace(-30, 30, 20001)
            a = v @ w + c
            integral = np.trapezoid(np.exp(a[..., None] * grid - grid**2 / 2 - a[..., None] ** 2 / 2), grid)
            return -v @ b - (np.log(integral) + a**2 / 2 - 0.5 * np.log(2 * np.pi)).sum(-1)

        found = contrastive.divergence(forward, gibbs=2)
        np.testing.assert_allclose(found, energy(v) - energy(last), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("binary", [True, False])
def test_the_gradient_is_contrastive_divergence(binary):
    with jax.enable_x64(True):
        forward, params, v = machine(3, binary=binary)
        last = gibbs(params, v, jax.random.split(jax.random.key(3), 1), binary=binary)

        def loss(params):
            return contrastive.divergence(forward._replace(params=params), gibbs=1).mean()

        found = jax.grad(loss)(forward.params)

        def hidden(v):
            a = v @ params["encoder"]["layers_0"]["kernel"] + params["encoder"]["layers_0"]["bias"]
            return expit(a) if binary else a

        n = len(v)
        expected = (last.T @ hidden(last) - v.T @ hidden(v)) / n  # ⟨v h⟩ of the model minus that of the data
        np.testing.assert_allclose(found["encoder"]["layers_0"]["kernel"], expected, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(
            found["encoder"]["layers_0"]["bias"], (hidden(last) - hidden(v)).mean(0), rtol=1e-8, atol=1e-10
        )
        np.testing.assert_allclose(found["decoder"]["layers_0"]["bias"], (last - v).mean(0), rtol=1e-8, atol=1e-10)
