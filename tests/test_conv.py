"""Convolution, pooling and the convolutional autoencoder against their identities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from sklearn.datasets import load_digits

import aejax
from aejax import models
from aejax.data import sources
from aejax.errors import InputError
from aejax.models import convolution as cv
from common import change, check, get_config

configured = functools.partial(get_config, "conv")
DIMENSIONS = ("NHWC", "HWIO", "NHWC")
few = settings(max_examples=8, deadline=None)
maps = {
    "h": st.integers(1, 9),
    "w": st.integers(1, 9),
    "c": st.integers(1, 3),
    "factor": st.integers(1, 4),
}


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng((seed, *shape)).normal(size=shape), jnp.float32)


def lax_conv(x, kernel, stride):
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=DIMENSIONS)


def make(config, shape, batch=2):
    model = models.build(config.model, shape=shape)
    x = jax.nn.sigmoid(draw(batch, *shape))
    return model, jax.jit(model.init)(jax.random.key(0), x), x


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1e-5), (np.float64, 1e-10)])
@few
@given(
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    k=st.integers(1, 5),
    stride=st.integers(1, 3),
    i=st.integers(1, 3),
    o=st.integers(1, 3),
)
def test_products_are_native_convolutions(dtype, bound, h, w, k, stride, i, o):
    rng = np.random.default_rng((h, w, k, stride, i, o))
    x, kernel = (rng.normal(size=shape).astype(dtype) for shape in ((2, h, w, i), (k, k, i, o)))
    y = rng.normal(size=(2, *cv.sizes((h, w), 1, stride)[1], o)).astype(dtype)

    def native_transpose(y, kernel):
        return jax.linear_transpose(lambda x: lax_conv(x, kernel, stride), x)(y)[0]

    def values_and_gradients(there, back):
        """Of the convolution and of its transpose, with respect to the map and to the kernel."""
        made, there_vjp = jax.vjp(there, x, kernel)
        again, back_vjp = jax.vjp(back, y, kernel)
        return made, again, *there_vjp(y), *back_vjp(x)

    with jax.enable_x64(dtype == np.float64):
        results, expected = jax.jit(
            lambda: (
                values_and_gradients(
                    lambda x, kernel: cv.conv(x, kernel, stride),
                    lambda y, kernel: cv.conv_transpose(y, kernel, (h, w), stride),
                ),
                values_and_gradients(lambda x, kernel: lax_conv(x, kernel, stride), native_transpose),
            )
        )()
    for a, b in zip(results, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=bound, atol=bound * np.abs(b).max())


@pytest.mark.parametrize(("platform", "native"), [("cpu", False), ("cuda", True), ("tpu", True)])
def test_every_platform_has_its_lowering(platform, native):
    x, kernel = draw(2, 5, 4, 2), draw(3, 3, 2, 3)

    def loss(kernel):
        y = cv.conv(x, kernel, 2)
        return jnp.sum(y**2) + jnp.sum(cv.conv_transpose(y, kernel, (5, 4), 2) ** 2)

    text = jax.jit(jax.grad(loss)).trace(kernel).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.convolution" in text) == native
    assert ("stablehlo.dot_general" in text) != native


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_native_form_has_the_same_padding(k, stride):
    x, kernel = draw(1, 7, 4, 2), draw(k, k, 2, 2)
    y = cv.conv(x, kernel, stride)
    np.testing.assert_allclose(cv._native(x, kernel, stride=stride), y, atol=1e-5)
    back = cv._native_transpose(y, kernel, size=(7, 4), stride=stride)
    np.testing.assert_allclose(back, cv.conv_transpose(y, kernel, (7, 4), stride), atol=1e-4)


@few
@given(h=st.integers(1, 9), w=st.integers(1, 9), k=st.integers(1, 5), stride=st.integers(1, 3), o=st.integers(1, 3))
def test_transposed_convolution_is_the_adjoint_of_convolution(h, w, k, stride, o):
    x, kernel = draw(2, h, w, 2), draw(k, k, 2, o)
    y = draw(2, *cv.sizes((h, w), 1, stride)[1], o, seed=1)
    there, back = jax.jit(lambda: (lax_conv(x, kernel, stride), cv.conv_transpose(y, kernel, (h, w), stride)))()
    assert back.shape == x.shape
    there, back, x, y = (np.asarray(a, np.float64) for a in (there, back, x, y))
    assert abs(np.vdot(there, y) - np.vdot(x, back)) <= 1e-5 * np.linalg.norm(there) * np.linalg.norm(y) + 1e-5


@pytest.mark.parametrize("k", [1, 3, 5])
def test_transposed_convolution_at_stride_1_is_convolution_with_the_flipped_kernel(k):
    y, kernel = draw(2, 9, 4, 3), draw(k, k, 2, 3)
    want = lax_conv(y, kernel[::-1, ::-1].swapaxes(2, 3), 1)
    np.testing.assert_allclose(cv.conv_transpose(y, kernel, (9, 4)), want, atol=1e-5)


def test_transposed_convolution_against_loops_in_numpy():
    y, kernel, stride, size = draw(1, 3, 2, 2), draw(3, 3, 1, 2), 2, (5, 4)
    want = np.zeros((size[0] + 4, size[1] + 4))
    lows = [cv.padding(n, 3, stride)[0] for n in size]
    for p, q in np.ndindex(3, 2):
        for a, b in np.ndindex(3, 3):
            place = stride * p + a - lows[0] + 2, stride * q + b - lows[1] + 2
            want[place] += np.dot(y[0, p, q], kernel[a, b, 0])
    np.testing.assert_allclose(cv.conv_transpose(y, kernel, size, stride)[0, :, :, 0], want[2:-2, 2:-2], atol=1e-5)


@pytest.mark.slow
def test_gradient_of_transposed_convolution_against_finite_differences():
    y, kernel, v = draw(1, 3, 3, 2), draw(3, 3, 1, 2), draw(3, 3, 1, 2, seed=1)

    def f(kernel):
        return jnp.sum(cv.conv_transpose(y, kernel, (5, 6), 2) ** 2)

    slope = (f(kernel + 1e-2 * v) - f(kernel - 1e-2 * v)) / 2e-2  # exact for a square
    np.testing.assert_allclose(jnp.vdot(jax.grad(f)(kernel), v), slope, rtol=1e-3)


@few
@given(**maps)
def test_unpooling_puts_each_maximum_back_in_its_place(h, w, c, factor):
    x = jnp.abs(draw(2, h, w, c))

    @jax.jit
    def there_and_back(x):
        y, switch = cv.max_pool(x, factor)
        back = cv.unpool(y, switch, (h, w), factor)
        return y, back, cv.max_pool(back, factor)[0]

    x, y, back, again = map(np.asarray, (x, *there_and_back(x)))
    assert y.shape == (2, *cv.sizes((h, w), 1, factor)[1], c)
    assert (back != 0).sum() == y.size  # one in each window
    np.testing.assert_array_equal(back[back != 0], x[back != 0])
    np.testing.assert_array_equal(again, y)
    blocks = [x[:, a : a + factor, b : b + factor] for a in range(0, h, factor) for b in range(0, w, factor)]
    want = np.stack([block.max((1, 2)) for block in blocks], 1).reshape(y.shape)
    np.testing.assert_array_equal(y, want)


def test_max_pool_of_equal_values_takes_the_first_and_its_gradient():
    x = -jnp.ones((1, 3, 3, 1))
    y, switch = cv.max_pool(x, 2)
    np.testing.assert_array_equal(y, -jnp.ones((1, 2, 2, 1)))  # padding never wins
    assert not switch.any()
    gradient = jax.grad(lambda x: cv.max_pool(x, 2)[0].sum())(x)[0, :, :, 0]
    np.testing.assert_array_equal(gradient, [[1, 0, 1], [0, 0, 0], [1, 0, 1]])


@few
@given(**maps)
def test_average_pooling_and_repetition(h, w, c, factor):
    x = np.asarray(draw(2, h, w, c))
    y = jax.jit(lambda: cv.average_pool(x, factor))()
    back = jax.jit(lambda: cv.repeat(y, (h, w), factor))()
    blocks = [x[:, a : a + factor, b : b + factor] for a in range(0, h, factor) for b in range(0, w, factor)]
    np.testing.assert_allclose(y, np.stack([b.mean((1, 2)) for b in blocks], 1).reshape(y.shape), atol=1e-6)
    np.testing.assert_array_equal(back, np.asarray(y).repeat(factor, 1).repeat(factor, 2)[:, :h, :w])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "size"), [((28, 28, 1), 0), ((9, 13, 3), 0), ((9, 13, 3), 3), ((1, 7, 2), 3), ((5, 1, 1), 0)]
)
@pytest.mark.parametrize(("down", "up"), [("max", "unpool"), ("average", "repeat"), ("stride", "transpose")])
def test_every_size_comes_back(shape, down, up, size):
    config = configured(
        model__conv__downsample=down,
        model__conv__upsample=up,
        model__conv__channels=(4, 5),
        model__bottleneck__size=size,
    )
    model, variables, x = make(config, shape)
    r, code = jax.jit(model.apply)(variables, x)
    again = jax.jit(lambda z, context: model.apply(variables, z, context, method="decode"))(code.z, code.context)
    assert r["x"].shape == x.shape
    h, w = cv.sizes(shape, 2, 2)[-1]
    assert code.z.shape == ((2, size) if size else (2, h, w, 5))
    assert len(code.hidden) == (2 if size else 1)
    np.testing.assert_allclose(again["x"], r["x"], atol=1e-6)


def test_parameters_of_the_shipped_config():
    _, variables, _ = make(configured(), (28, 28, 1))
    assert count(variables) == 320 + 3 * 9248 + 289 == 28_353


def test_dense_layers_between_convolutions_and_code():
    config = configured(model__encoder__widths=(6,), model__bottleneck__size=2, model__conv__output_layer=False)
    _, variables, _ = make(config, (8, 8, 1))
    dense = variables["params"]["encoder"]["dense"], variables["params"]["decoder"]["dense"]
    kernels = [[part[f"layers_{n}"]["kernel"].shape for n in range(2)] for part in dense]
    assert kernels == [[(128, 6), (6, 2)], [(2, 6), (6, 128)]]


@pytest.mark.slow
@pytest.mark.parametrize(("down", "up", "gain", "size"), [("stride", "transpose", 1, 3), ("average", "repeat", 4, 0)])
def test_tied_linear_decoder_is_the_adjoint_of_the_encoder(down, up, gain, size):
    config = configured(
        model__conv__downsample=down,
        model__conv__upsample=up,
        model__conv__output_layer=False,
        model__encoder__activation="identity",
        model__code_activation="identity",
        model__bottleneck__size=size,
        model__decoder__tied=True,
    )
    check(config)
    model, variables, x = make(config, (8, 12, 2))
    assert not any(
        "kernel" in jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(variables["params"]["decoder"])
    )
    z = model.apply(variables, x, method="encode").z
    y = draw(*z.shape, seed=1)
    # The mean of four pixels is a quarter of what repetition is the adjoint of, in each of two blocks.
    back = model.apply(variables, y, method="decode")["x"] / gain**2
    np.testing.assert_allclose(jnp.vdot(z, y), jnp.vdot(x, back), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("down", ["max", *(pytest.param(d, marks=pytest.mark.slow) for d in ("average", "stride"))])
def test_forward_and_reverse_jacobians_of_the_encoder_agree(down):
    config = configured(model__bottleneck__size=3, model__code_activation="tanh", model__conv__downsample=down)
    model, variables, x = make(config, (6, 5, 1), batch=1)

    def norm2(method, variables):
        jacobian = method(lambda x: model.apply(variables, x, method="encode").h)(x)
        return jnp.sum(jacobian**2), jacobian

    gradients = jax.jit(
        lambda variables: [
            jax.grad(lambda v, method=method: norm2(method, v), has_aux=True)(variables)
            for method in (jax.jacfwd, jax.jacrev)
        ]
    )(variables)
    assert float(jnp.abs(gradients[0][1]).max()) > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *gradients)


@pytest.mark.slow
def test_norm_dropout_and_bfloat16():
    config = configured(
        model__dtype="bfloat16", model__encoder__norm="batch", model__encoder__dropout=0.2, model__bottleneck__size=3
    )
    model, variables, x = make(config, (9, 8, 1))
    rngs = {"dropout": jax.random.key(1)}
    (r, code), updates = model.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats"])
    assert r["x"].dtype == code.z.dtype == jnp.float32
    assert code.hidden[0].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"])} == {jnp.dtype("float32")}
    assert count(updates) == count(variables["batch_stats"]) > 0
    exact, *_ = make(change(config, model__dtype="float32"), (9, 8, 1))
    np.testing.assert_allclose(model.apply(variables, x)[0]["x"], exact.apply(variables, x)[0]["x"], atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("up", ["transpose", "unpool"])
def test_digits_end_to_end(up, tmp_path):
    config = configured(
        model__conv__upsample=up, model__conv__channels=(8, 8), train__epochs=25, optim__learning_rate=1e-2
    )
    images = (load_digits().images / 16).astype(np.float32)
    trained = aejax.fit(images, config, workdir=tmp_path / "run")
    r = trained.reconstruct(images[:50])
    assert r.shape == (50, 8, 8, 1)
    assert trained.encode(images[:3]).shape == (3, 2, 2, 8)
    variance = ((images - images.mean(0)) ** 2).sum((1, 2)).mean()
    assert ((images[:50] - r[..., 0]) ** 2).sum((1, 2)).mean() < 0.6 * variance
    if up == "unpool":
        with pytest.raises(InputError, match=r"unpooling needs the encoder's switches.*repeat.*transpose"):
            trained.decode(trained.encode(images[:3]))
    else:
        np.testing.assert_allclose(trained.decode(trained.encode(images[:50])), r, atol=1e-5)


@pytest.mark.slow
def test_sampling_a_decoder_that_needs_switches(tmp_path):
    config = configured(
        model__conv__upsample="unpool",
        model__conv__channels=(2,),
        model__bottleneck__name="gaussian",
        model__bottleneck__size=2,
        model__code_activation="identity",
        train__epochs=1,
        train__batch_size=32,
    )
    trained = aejax.fit((load_digits().images[:100] / 16).astype(np.float32), config, workdir=tmp_path / "run")
    assert "test/elbo" not in (tmp_path / "run" / "results.json").read_text()
    with pytest.raises(InputError, match=r"model\.conv\.upsample = 'unpool'"):
        trained.sample(3)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"model__conv__upsample": "unpool", "model__conv__downsample": "average"}, "conv.upsample = 'unpool': needs"),
        ({"model__conv__upsample": "zoom"}, "conv.upsample = 'zoom': must be one of unpool, repeat, transpose"),
        ({"model__conv__downsample": "min"}, "conv.downsample = 'min': must be one of max, average, stride"),
        ({"model__conv__channels": ()}, "conv.channels = .*at least one block"),
        ({"model__conv__channels": (8, 0)}, "conv.channels = .*integers of at least 1"),
        ({"model__conv__factor": 17}, "conv.factor = 17: must lie in"),
        ({"model__conv__kernel_size": 0}, "conv.kernel_size = 0: must be at least 1"),
        ({"model__conv__kernel_size": 1}, "conv.kernel_size = 1: must be at least model.conv.factor = 2"),
        ({"model__encoder__widths": (9,)}, "encoder.widths = .*last map is the code"),
        ({"model__decoder__widths": (9,)}, "decoder.widths = .*last map is the code"),
        ({"model__bottleneck__name": "gaussian", "model__code_activation": "identity"}, "bottleneck.size = 0"),
        ({"model__name": "mlp"}, "bottleneck.size = 0: must be at least 1"),
        ({"model__decoder__tied": True}, "decoder.tied = True: cannot share"),
        ({"model__decoder__tied": True, "model__conv__upsample": "repeat"}, "conv.output_layer = True"),
    ],
)
def test_bad_combinations_end_in_one_line(fields, line):
    with pytest.raises(InputError, match=line) as error:
        check(configured(**fields))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("x", "fields", "line"),
    [
        (np.zeros((50, 4)), {}, "model.name = 'conv': needs images"),
        (np.zeros((50, 3, 4)), {"model__conv__channels": (2, 2, 2)}, "at most 2 blocks: after them a 3 x 4 image"),
    ],
)
def test_data_that_does_not_fit_ends_in_one_line(x, fields, line):
    config = configured(**fields, train__batch_size=10, objective__likelihood="squared_error")
    data = sources.from_array(x, config)
    with pytest.raises(InputError, match=line):
        check(config, data.spec)
