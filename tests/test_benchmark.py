import json
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import common
from aejax import benchmark, limits, mesh, steps, topology, train
from aejax.data import sources
from aejax.errors import InputError

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")


def trace(config):
    return limits.trace(config, sources.load(config).spec, mesh.make(1))


@pytest.mark.optimized
def test_operations_of_an_mlp_are_those_counted_by_hand():
    config = common.small(model__encoder__widths=(50,), model__bottleneck__size=10, train__batch_size=32)
    step = trace(config)
    layers = [(64, 50), (50, 10), (10, 50), (50, 64)]
    # Each layer multiplies forward, for its kernel's gradient and, but for the first, for its input's.
    by_hand = sum(2 * 32 * n * m * (2 if i == 0 else 3) for i, (n, m) in enumerate(layers))
    assert sum(p.operations * n for p, n in limits.products(step.jaxpr).items()) == by_hand
    # Adam and the loss on top: some ten to twenty operations for each parameter and each output.
    parameters = sum(n * m + m for n, m in layers)
    elementwise = step.lower().compile().cost_analysis()["flops"] - by_hand
    assert 10 * parameters < elementwise < 30 * (parameters + 32 * 64)


def test_products_within_a_loop_of_known_length_count_every_turn():
    once, parts = (common.small(optim__accumulate=k, train__batch_size=32) for k in (1, 4))
    count = [sum(p.operations * n for p, n in limits.products(trace(c).jaxpr).items()) for c in (once, parts)]
    assert count[0] == count[1]


def test_operations_of_a_convolution():
    x, kernel = jnp.zeros((2, 8, 6, 3)), jnp.zeros((3, 3, 3, 5))
    numbers = ("NHWC", "HWIO", "NHWC")
    jaxpr = jax.make_jaxpr(lambda x, w: lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers))
    (product,) = limits.products(jaxpr(x, kernel))
    assert product.operations == 2 * 2 * 8 * 6 * 5 * 3 * 3 * 3
    assert product(x, kernel).shape == (2, 8, 6, 5)


def test_products_of_a_choice_are_those_of_this_platform():
    def both(x):
        return lax.platform_dependent(x, cpu=lambda x: x @ x, default=lambda x: x @ x @ x)

    def either(x):
        return lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    counted = [sum(limits.products(jax.make_jaxpr(f)(jnp.ones((3, 3)))).values()) for f in (both, either)]
    assert counted == [1 if jax.default_backend() == "cpu" else 2, 2]


def test_products_of_convolutions_on_the_cpu_are_matrix_products():
    made = limits.products(trace(common.get_config("conv")).jaxpr)
    names = {product.primitive.name for product in made}
    assert names == ({"dot_general"} if jax.default_backend() == "cpu" else {"dot_general", "conv_general_dilated"})


def test_optimizer_bytes():
    config = common.small()
    data = sources.load(config)
    state = steps.init(steps.build(config, data.spec, 1), data.spec)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    # Parameters and Adam's two moments read and written, the gradient read; and two counters.
    assert limits.optimizer_bytes(state) == 4 * 7 * parameters + 2 * 2 * 4


def test_measure(monkeypatch):
    monkeypatch.setattr(limits, "OPERATIONS", 1e7)
    monkeypatch.setattr(limits, "REPEATS", 1)
    config = common.small(train__log_steps=5)
    result = benchmark.measure(config, sources.load(config), seconds=0)
    assert json.loads(json.dumps(result)) == result
    assert result["batch_size"] == 32
    assert 0 < result["waiting_share"] < 1
    low, high = result["ms_per_step_quartiles"]
    assert 0 < low <= result["ms_per_step"] <= high
    np.testing.assert_allclose(
        result["share_of_limit"],
        (result["optimizer_bytes"] / result["bytes_per_second"] * 1e3
        + products_operations(config) / result["best_product_operations_per_second"] * 1e3)
        / result["ms_per_step"],
    )  # fmt: skip
    assert "GB/s" in benchmark.table(result)


def test_ratios_are_of_the_peer_over_aejax_run_by_run(monkeypatch):
    seconds = {"--peer=": [2.0, 4.0, 1.0], "--peer=torch_eager": [6.0, 4.0, 5.0], "--peer=torch_compile": [1.0] * 3}
    asked = []

    def process(arguments, **environment):
        peer = next(argument for argument in arguments if argument.startswith("--peer="))
        asked.append(peer)
        assert "--config.data.resident=true" in arguments
        return {"ms_per_step": seconds[peer].pop(0)}

    monkeypatch.setattr(benchmark, "_process", process)
    result = benchmark.versus(benchmark.PEERS["torch"], 3)
    assert asked == ["--peer=", "--peer=torch_eager", "--peer=torch_compile"] * 3
    assert result["aejax_ms_per_step"] == 2.0
    assert result["ratio_vs_torch_eager"] == 3.0  # of 3, 1 and 5
    assert result["ratio_vs_torch_compile"] == 0.5  # of 1/2, 1/4 and 1
    assert result["ratio_vs_torch_eager_quartiles"] == [2.0, 4.0]


def products_operations(config):
    return sum(p.operations * n for p, n in limits.products(trace(config).jaxpr).items())


def test_collectives_of_a_program_in_every_form():
    text = """
  %a = f32[30,250]{1,0:T(8,128)S(1)} all-reduce(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %b = (f32[], /*index=1*/bf16[8]{0}) all-reduce-start(%x, %y), replica_groups=[1,8]<=[8], to_apply=%add
  %c = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%x), replica_groups=mesh['data'=4,'model'=2] {'data'}
  %d = f32[2,4]{1,0} reduce-scatter(%x), replica_groups=[2,4]<=[8], to_apply=%add
  %e = pred[16]{0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
  %f = f32[8]{0} all-gather-done(%c), metadata={op_name="all-reduce(no)"}
  %g = f32[4] fusion(%all-reduce.1), kind=kLoop
"""
    assert topology.collectives(text) == [
        ("all-reduce", 30000, 4),
        ("all-reduce", 20, 8),
        ("all-gather", 128, 4),
        ("reduce-scatter", 128, 4),
        ("collective-permute", 16, 2),
    ]
    assert topology.traffic("all-reduce", 800, 8) == 1400
    assert topology.traffic("all-gather", 800, 8) == topology.traffic("reduce-scatter", 800, 8) == 700
    assert topology.traffic("collective-permute", 800, 8) == 800


@pytest.mark.parametrize(
    ("flag", "package", "install"),
    [("--vs=torch", "torch", "pip install torch==2.13.0"), ("--topology=v5e:2x4", "libtpu", "pip install 'jax[tpu]'")],
)
def test_what_is_missing_is_one_line(flag, package, install):
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    arguments = ("--config=configs/ae.py", flag)
    _, err = common.finish(common.command(*arguments, module="aejax.benchmark"), code=2)
    assert len(err.strip().splitlines()) == 1
    assert install in err


REFUSED = {
    ("--vs=streaming", "--devices=1,2"): "--vs and --devices: one of them at a time",
    ("--vs=streaming",): "--vs=streaming: needs one of the sources npy:FILE",
    ("--devices=1,3",): "--devices=1,3: must divide config.train.batch_size = 128",
    ("--devices=1,x",): "--devices=1,x: must be numbers",
    ("--json=none/a.json",): "--json=none/a.json: no such folder",
}


@pytest.mark.parametrize("flags", REFUSED, ids=" ".join)
def test_what_cannot_be_measured_is_refused_at_once(flags):
    _, err = common.finish(common.command("--config=configs/ae.py", *flags, module="aejax.benchmark"), code=2)
    assert err.startswith(f"aejax: {REFUSED[flags]}")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_scaling_over_devices(tmp_path):
    arguments = ("--config=configs/ae.py", "--devices=1,2", "--alternations=1", "--seconds=0")
    file = tmp_path / "scaling.json"
    common.finish(common.command(*arguments, f"--json={file}", module="aejax.benchmark"))
    result = json.loads(file.read_text())
    assert result["speedup_on_1"] == 1
    assert result["speedup_on_2"] > 0


@pytest.mark.slow
@pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu")
def test_topology(tmp_path):
    file = tmp_path / "topology.json"
    arguments = ("--config=configs/ae.py", "--topology=v5e:2x2,v5e:2x4", f"--json={file}")
    common.finish(common.command(*arguments, module="aejax.benchmark"))
    result = json.loads(file.read_text())
    few, many = result["v5e:2x2"], result["v5e:2x4"]
    assert many["batch_size"] == 2 * few["batch_size"]
    # The gradient, float32, and a few sums.
    gradient = 4 * (2 * (64 * 256 + 256 * 128 + 128 * 64 + 64 * 2) + 2 * (256 + 128 + 64) + 2 + 64)
    assert gradient <= few["all_reduce_bytes"] <= gradient + 100


def test_profile(tmp_path):
    changes = {"train__epochs": 1, "train__log_steps": 5}
    plain, profiled = (common.small(train__profile_steps=n, **changes) for n in (0, 7))
    expected = train.run(plain, tmp_path / "plain")
    results = train.run(profiled, tmp_path / "profiled")
    assert common.without_clock(results) == common.without_clock(expected)
    assert not (tmp_path / "plain" / "profile").exists()
    assert list((tmp_path / "profiled" / "profile").rglob("*.xplane.pb"))


def test_torch_refuses_what_it_has_not():
    benchmark_torch = pytest.importorskip("aejax.benchmark_torch", exc_type=ImportError)
    with pytest.raises(InputError) as error:
        benchmark_torch.check(common.small(pair__name="denoise"), (8, 8, 1))
    common.one_line(error, "pair.name", "denoise", "reconstruct")
    with pytest.raises(InputError) as error:
        benchmark_torch.check(common.small(objective__l1__weight=0.1), (8, 8, 1))
    common.one_line(error, "objective.l1.weight", "0.1")


@needs_torch
@pytest.mark.parametrize("name", ["ae", "deep", "vae", "conv"])
def test_first_loss_in_torch_is_the_same(name):
    import torch

    from aejax import benchmark_torch

    config = common.get_config(name, data__binarize="none")
    data = sources.load(config)
    experiment = steps.build(config, data.spec, 1)
    state = steps.init(experiment, data.spec)
    x = data.train["x"][: config.train.batch_size]
    terms, made = experiment.objective.terms(
        state.params, {}, {"x": jnp.asarray(x)}, key=experiment.key, step=state.step, train=True
    )
    loss = benchmark_torch.Loss(config, data.spec.shape)
    noise = None
    if "mean" in made["code"].stats:
        mean, logvar = made["code"].stats["mean"], made["code"].stats["logvar"]
        noise = torch.from_numpy(np.array((made["code"].z - mean) / jnp.exp(logvar / 2)))
    with torch.no_grad():
        load(loss.encoder, state.params["encoder"], transposed=False)
        load(loss.decoder, state.params["decoder"], transposed=True)
        # Its transposed convolution leaves out the other end of a map: the same network on mirrored images.
        images = np.ascontiguousarray(np.moveaxis(x, -1, 1)[..., ::-1, ::-1]) if name == "conv" else x
        given = float(loss(torch.from_numpy(images), noise))
    np.testing.assert_allclose(given, sum(float(v.mean()) for n, v in terms.items() if n != "squared_error"), rtol=1e-5)


def load(network, params, transposed):
    """Copy the layers of aejax, in their order, mirrored; `transposed`: its convolutions are."""
    import torch

    layers = [layer for layer in network if hasattr(layer, "weight")]
    flat = {"/".join(k.key for k in path): np.array(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    names = sorted({path.rpartition("/")[0] for path in flat})
    assert len(names) == len(layers)
    for name, layer in zip(names, layers, strict=True):
        kernel = flat[f"{name}/kernel"]
        if isinstance(layer, torch.nn.Linear):
            kernel = kernel.T
        elif isinstance(layer, torch.nn.Conv2d) and transposed:  # of stride 1: mirrored twice
            kernel = kernel.transpose(2, 3, 0, 1)
        else:
            kernel = kernel[::-1, ::-1].transpose(3, 2, 0, 1)
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
        layer.bias.copy_(torch.from_numpy(flat[f"{name}/bias"]))
