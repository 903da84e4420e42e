"""The contractive penalty: every method against the others and against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aejax import models
from aejax.losses import Forward
from aejax.losses.jacobian import contractive, contractive_hessian, jacobian
from aejax.models import ACTIVATIONS
from aejax.pairs import example
from common import small


def forward(model, params, x, activation=None):
    def encode(x):
        return model.apply({"params": params}, x, method="encode")

    step = jnp.zeros((), jnp.int32)
    return Forward(encode, example(x, x), encode(x), params, jax.random.key(0), step, None, activation)


CONV = {
    "model__conv__channels": (3, 2),
    "model__conv__kernel_size": 3,
    "model__conv__downsample": "max",
    "model__conv__factor": 2,
    "model__conv__upsample": "repeat",
    "model__conv__output_layer": False,
}


def build(
    shape, widths, size, *, family="mlp", bottleneck="identity", activation="tanh", code_activation="identity", dtype
):
    config = small(
        **CONV,
        model__name=family,
        model__encoder__widths=widths,
        model__encoder__activation=activation,
        model__bottleneck__name=bottleneck,
        model__bottleneck__size=size,
        model__code_activation=code_activation,
        model__dtype=dtype,
    )
    model = models.build(config.model, shape=shape)
    x = jax.random.uniform(jax.random.key(1), (5, *shape), dtype)
    params = model.init(jax.random.key(0), x)["params"]
    return model, jax.tree.map(lambda a: a.astype(dtype), params), x


CASES = {
    "one layer": {"widths": (), "size": 20, "code_activation": "sigmoid"},
    "deep": {"widths": (11, 7), "size": 3},
    "convolutional": {"family": "conv", "widths": (), "size": 3},
    "convolutional, map as code": {"family": "conv", "widths": (), "size": 0, "code_activation": "sigmoid"},
    "mean of a VAE": {"widths": (11,), "size": 3, "bottleneck": "gaussian"},
    "one layer, mean of a VAE": {"widths": (), "size": 4, "bottleneck": "gaussian"},
}


@pytest.mark.parametrize(
    ("case", "dtype", "rtol"),
    [
        pytest.param(case, dtype, rtol, marks=[] if (case, dtype) == ("one layer", "float64") else [pytest.mark.slow])
        for case, fields in CASES.items()
        for dtype, rtol in (("float32", 1e-5), ("float64", 1e-10))
    ],
)
def test_methods_agree(case, dtype, rtol):
    with jax.enable_x64(dtype == "float64"):
        model, params, x = build((3, 4, 1), **CASES[case], dtype=dtype)
        one_layer = not CASES[case]["widths"] and "family" not in CASES[case]
        activation = ACTIVATIONS[CASES[case].get("code_activation", "identity")] if one_layer else None
        methods = ["jacfwd", "jacrev", "auto", *(["closed_form"] if one_layer else [])]

        def value(params, method, chunk):
            given = forward(model, params, x, activation)
            norms = contractive(given, method=method, chunk=chunk)
            return norms.sum(), norms

        def compute(method, chunk):
            gradient, norms = jax.jit(jax.grad(value, has_aux=True), static_argnums=(1, 2))(params, method, chunk)
            return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)]), norms

        gradient, norms = compute("jacfwd", 5)
        for method in methods:
            for chunk in (0, 2) if method == "jacrev" else (0,):
                other_gradient, other_norms = compute(method, chunk)
                np.testing.assert_allclose(other_norms, norms, rtol=rtol)
                assert np.linalg.norm(other_gradient - gradient) <= rtol * np.linalg.norm(gradient)


@pytest.mark.slow
def test_jacobian_against_finite_differences():
    with jax.enable_x64(True):
        model, params, x = build((2, 3, 1), (5,), 3, dtype="float64")
        encode = jax.jit(forward(model, params, x).encode)
        step = 1e-6
        numeric = np.zeros((3, 6))
        for i in range(6):
            delta = np.zeros(6)
            delta[i] = step
            delta = delta.reshape(x[:1].shape)
            numeric[:, i] = (encode(x[:1] + delta).h - encode(x[:1] - delta).h)[0] / (2 * step)
        for method in ("jacfwd", "jacrev", "auto"):
            np.testing.assert_allclose(jacobian(encode, x[0], method=method), numeric, rtol=1e-6, atol=1e-9)
        given = forward(model, params, x)
        np.testing.assert_allclose(contractive(given, method="auto", chunk=0)[0], (numeric**2).sum(), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["jacfwd", "jacrev", "closed_form"])
def test_hessian_penalty_is_the_second_derivative(method):
    """For small σ, E ‖J(x) − J(x + ε)‖² → σ² ‖∂²h/∂x²‖²_F."""
    with jax.enable_x64(True):
        model, params, x = build((4,), (), 3, code_activation="sigmoid", dtype="float64")
        given = forward(model, params, x, ACTIVATIONS["sigmoid"])
        sigma = 1e-4
        estimate = contractive_hessian(given, sigma=sigma, samples=2000, method=method, chunk=0)
        hessian = jax.vmap(jax.hessian(lambda v: given.encode(v[None]).h[0]))(x)  # [B, H, D, D]
        np.testing.assert_allclose(estimate / sigma**2, jnp.sum(hessian**2, (1, 2, 3)), rtol=0.1)


def test_closed_form_gives_rifais_formula():
    model, params, x = build((6,), (), 5, code_activation="sigmoid", dtype="float32")
    given = forward(model, params, x, ACTIVATIONS["sigmoid"])
    h, kernel = np.asarray(given.code.h), np.asarray(params["encoder"]["layers_0"]["kernel"])
    expected = ((h * (1 - h)) ** 2 * (kernel**2).sum(0)).sum(1)
    np.testing.assert_allclose(contractive(given, method="auto", chunk=0), expected, rtol=1e-5)
