import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import common
from aejax import experiment
from aejax import run as run_lib
from aejax.benchmark import limits, speed, topology, versus
from aejax.benchmark.table import table
from aejax.data import sources
from aejax.errors import InputError
from aejax.methods import objective
from aejax.parallel import mesh
from aejax.training import plan

RBM = {
    "model__encoder__widths": (),
    "model__code_activation": "sigmoid",
    "model__decoder__tied": True,
    "objective__likelihood": "bernoulli",
}
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")


def trace(config):
    config = plan.resolve(config)
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


def test_a_product_that_xla_makes_once_counts_once():
    made = limits.products(trace(common.get_config("contractive")).jaxpr)
    shapes = [tuple(x.shape for x in product.inputs) for product in made.elements()]
    assert shapes.count(((128, 64), (64, 1000))) == 1  # forward, and for the penalty
    x = jnp.ones((3, 3))
    again = jax.make_jaxpr(lambda x: (x @ x, x @ x, x @ x.T, x.T @ x, x @ x.T))(x)
    assert sum(limits.products(again.jaxpr).values()) == 3


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
    state = common.trainer(common.small()).init()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    # Parameters and Adam's two moments read and written, the gradient read; and two counters.
    assert limits.optimizer_bytes(state) == 4 * 7 * parameters + 2 * 2 * 4


def test_a_product_whose_inner_dimension_is_1_is_measured_whole(monkeypatch):
    monkeypatch.setattr(limits, "OPERATIONS", 1e4)  # twice
    (product,) = limits.products(jax.make_jaxpr(jnp.matmul)(jnp.zeros((50, 1)), jnp.zeros((1, 50))).jaxpr)
    function, count = limits.product_time(product)
    first, second = (jax.random.normal(jax.random.key(i), x.shape) for i, x in enumerate(product.inputs))
    assert count == 2 or jax.default_backend() != "cpu"
    # Only the first entry of the input changes from one product to the next.
    np.testing.assert_allclose(function()[1:], (first @ second)[1:], rtol=1e-2)


@pytest.mark.slow
def test_measure(monkeypatch):
    monkeypatch.setattr(limits, "OPERATIONS", 1e7)
    monkeypatch.setattr(limits, "REPEATS", 1)
    monkeypatch.setitem(limits.PEAKS, jax.devices()[0].device_kind, limits.Peak(1e12, "TF32", None))
    config = plan.resolve(common.small(train__log_steps=5))
    result = speed.measure(config, sources.load(config), seconds=0)
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
    np.testing.assert_allclose(result["share_of_peak"], products_operations(config) / 1e9 / result["ms_per_step"])
    text = table(result)
    assert "GB/s" in text
    assert re.search(r"that peak +TF32\n", text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [{"method__name": "adversarial"}, {"method__name": "contrastive", **RBM}],
    ids=["adversarial", "contrastive"],
)
def test_measure_takes_every_method(fields, monkeypatch):
    monkeypatch.setattr(speed, "WARMUP", 1)
    monkeypatch.setattr(speed, "ROUNDS", 1)
    config = plan.resolve(common.small(train__log_steps=5, **fields))
    result = speed.measure(config, sources.load(config), seconds=0, limits=False)
    assert result["ms_per_step"] > 0
    assert result["operations_per_step"] >= products_operations(config) > 0


def test_ratios_are_of_the_peer_over_aejax_run_by_run(monkeypatch):
    seconds = {"--peer=": [2.0, 4.0, 1.0], "--peer=torch_eager": [6.0, 4.0, 5.0], "--peer=torch_compile": [1.0] * 3}
    asked = []

    def process(arguments, **environment):
        peer = next(argument for argument in arguments if argument.startswith("--peer="))
        asked.append(peer)
        assert "--config.data.resident=true" in arguments
        return {"ms_per_step": seconds[peer].pop(0), "devices": ["cpu"]}

    monkeypatch.setattr(versus, "process", process)
    result = versus.versus(versus.PEERS["torch"], 3)
    assert asked == ["--peer=", "--peer=torch_eager", "--peer=torch_compile"] * 3
    assert result["aejax_ms_per_step"] == 2.0
    assert result["ratio_vs_torch_eager"] == 3.0  # of 3, 1 and 5
    assert result["ratio_vs_torch_compile"] == 0.5  # of 1/2, 1/4 and 1
    assert result["ratio_vs_torch_eager_quartiles"] == [2.0, 4.0]


def test_a_peer_on_another_device_is_refused(monkeypatch):
    def process(arguments, **environment):
        return {"ms_per_step": 1.0, "devices": ["NVIDIA H200" if "--peer=" in arguments else "cpu"]}

    monkeypatch.setattr(versus, "process", process)
    with pytest.raises(InputError) as error:
        versus.versus(versus.PEERS["torch"], 1)
    common.one_line(error, "--peer=torch_eager", "trains on cpu, aejax on NVIDIA H200")


def test_published_peaks_of_gpus():
    assert limits.peak("NVIDIA H100 80GB HBM3", "float32") == (494.7e12, "TF32")
    assert limits.peak("NVIDIA A100-SXM4-40GB", "bfloat16") == (312e12, "bfloat16")
    assert limits.peak("NVIDIA L4", "bfloat16") == (121e12, "bfloat16")
    assert limits.peak("Tesla T4", "float32") == (8.1e12, "float32")
    assert limits.peak("Tesla V100-SXM2-16GB", "bfloat16") is None
    for other in ("cpu", "NVIDIA L40S", "NVIDIA H100 PCIe", "NVIDIA A100-SXM4-40GB MIG 1g.5gb"):
        assert limits.peak(other, "float32") is None


def test_products_at_the_peak_of_their_type():
    def f(x, w):
        return x @ w, x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)

    found = limits.products(jax.make_jaxpr(f)(jnp.zeros((2, 3)), jnp.zeros((3, 5))).jaxpr)
    np.testing.assert_allclose(limits.peak_seconds(found, "NVIDIA H200"), 60 / 494.7e12 + 60 / 989.4e12)
    assert limits.peak_seconds(found, "Tesla T4") is None  # in bfloat16 it has none


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
    ("--vs=streaming", "--devices=1,2"): "--vs and --devices: give only one of them",
    ("--vs=streaming",): "--vs=streaming: needs one of the sources npy:FILE",
    ("--devices=1,3",): "--devices=1,3: must divide config.train.batch_size = 128",
    ("--devices=1,x",): "--devices=1,x: must be integers",
    ("--json=none/a.json",): "--json=none/a.json: no such folder",
}


@pytest.mark.parametrize("flags", REFUSED, ids=" ".join)
def test_what_cannot_be_measured_is_refused_at_once(flags):
    _, err = common.finish(common.command("--config=configs/ae.py", *flags, module="aejax.benchmark"), code=2)
    assert err.startswith(f"aejax: {REFUSED[flags]}")
    assert err.count("\n") == 1


def gpu(*arguments, **environment):
    """launch/gpu.sh, ended."""
    own = os.environ | {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"} | environment
    script = [common.ROOT / "launch" / "gpu.sh", *arguments]
    return subprocess.run(script, env=own, capture_output=True, text=True, check=False)


def test_gpu_without_one_is_refused(tmp_path):
    done = gpu(RUNS=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("launch/gpu.sh: JAX sees no GPU")
    assert not list(tmp_path.iterdir())


def test_gpu_goes_on_after_a_failure_and_measures_nothing_twice(tmp_path):
    python = tmp_path / "python"  # measures nothing
    python.write_text(
        f"#!/bin/sh\n[ $1 != -m ] || {{ echo 'aejax: no memory' >&2; exit 1; }}\nexec {sys.executable} \"$@\"\n"
    )
    python.chmod(0o755)
    folder = tmp_path / "gpu" / "cpu_digits"
    folder.mkdir(parents=True)
    own = {"ms_per_step": 3.0, "share_of_limit": 0.5}
    peak = {"share_of_peak": 0.25, "peak_operations_per_second": 121e12, "peak_arithmetic": "bfloat16"}
    ratio = {"ratio_vs_torch_compile": 1.5, "ratio_vs_torch_compile_quartiles": [1.25, 2]}
    both = {"aejax_ms_per_step": 2.0, "torch_compile_ms_per_step": 3.0, **ratio}
    for name, result in {"deep_float32": own, "vae_bfloat16": own | peak, "vae_bfloat16_torch": both}.items():
        (folder / f"{name}.json").write_text(json.dumps(result))
    done = gpu("--cpu", PYTHON=str(python), RUNS=str(tmp_path))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2 * 2 * 4 - 3
    assert "launch/gpu.sh: deep_float32_torch: aejax: no memory\n" in done.stderr
    lines = (tmp_path / "gpu.md").read_text().splitlines()
    assert done.stdout.endswith("\n".join(lines) + "\n")
    assert "| `deep` | 256 | float32 | 3 | failed | failed | 50 % of the limit measured |" in lines
    assert "| `vae` | 256 | bfloat16 | 2 | 3 | 1.50 (1.25 to 2.00) | 25 % of 121 T/s, bfloat16 |" in lines
    assert "| `conv` | 128 | float32 | failed | failed | failed | failed |" in lines


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


@pytest.mark.slow
def test_profile(tmp_path):
    changes = {"train__epochs": 1, "train__log_steps": 5}
    plain, profiled = (common.small(train__profile_steps=n, **changes) for n in (0, 7))
    expected = run_lib.run(plain, tmp_path / "plain")
    results = run_lib.run(profiled, tmp_path / "profiled")
    assert common.without_clock(results) == common.without_clock(expected)
    assert not (tmp_path / "plain" / "profile").exists()
    assert list((tmp_path / "profiled" / "profile").rglob("*.xplane.pb"))


def test_torch_refuses_what_it_has_not():
    torch_peer = pytest.importorskip("aejax.benchmark.torch_peer", exc_type=ImportError)
    with pytest.raises(InputError) as error:
        torch_peer.check(common.small(pair__name="denoise"), (8, 8, 1))
    common.one_line(error, "pair.name", "denoise", "reconstruct")
    with pytest.raises(InputError) as error:
        torch_peer.check(common.small(objective__l1__weight=0.1), (8, 8, 1))
    common.one_line(error, "objective.l1.weight", "0.1")
    with pytest.raises(InputError) as error:
        torch_peer.check(common.small(objective__contractive__weight=0.1), (8, 8, 1))
    common.one_line(error, "objective.contractive.weight", "0.1", "one layer of sigmoid units")
    for field, value in {"method.name": "adversarial", "pair.input": "log", "data.missing": "mask"}.items():
        with pytest.raises(InputError) as error:
            torch_peer.check(common.small(**{field.replace(".", "__"): value}), (64,))
        common.one_line(error, field, value, "--vs=torch takes")


def test_torch_takes_a_config_whose_step_is_the_same():
    torch_peer = pytest.importorskip("aejax.benchmark.torch_peer", exc_type=ImportError)
    config = common.small(
        method__contrastive__gibbs=3,
        method__adversarial__widths=(8,),
        pair__denoise__level=0.5,
        uses__run=("probe",),
        uses__jacobian__examples=5,
        train__log_units=True,
        mesh__threads=1,
    )
    torch_peer.check(config, (8, 8, 1))
    torch_peer.check(plan.resolve(config), (8, 8, 1))


@needs_torch
@pytest.mark.parametrize("name", ["ae", "deep", "vae", "conv", "contractive"])
def test_first_loss_in_torch_is_the_same(name):
    import torch

    from aejax.benchmark import torch_peer

    config = plan.resolve(common.get_config(name, data__binarize="none"))
    data = sources.load(config)
    built = experiment.build(config, data.spec)
    state = built.init()
    x = data.train["x"][: config.train.batch_size]
    terms, made = built.objective.terms(
        state.params, {}, {"x": jnp.asarray(x)}, key=built.key, step=state.step, train=True
    )
    loss = torch_peer.Loss(config, data.spec.x.shape)
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
    expected = built.objective.loss(objective.mean(terms), state.step)
    np.testing.assert_allclose(given, float(expected), rtol=1e-5)


def load(network, params, transposed):
    """Copy the layers of aejax, in their order, mirrored; `transposed`: its convolutions are."""
    import torch

    layers = [layer for layer in network if hasattr(layer, "bias")]
    flat = {"/".join(k.key for k in path): np.array(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    names = sorted({path.rpartition("/")[0] for path in flat})
    assert len(names) == len(layers)
    for name, layer in zip(names, layers, strict=True):
        layer.bias.copy_(torch.from_numpy(flat[f"{name}/bias"]))
        if not hasattr(layer, "weight"):  # tied
            continue
        kernel = flat[f"{name}/kernel"]
        if isinstance(layer, torch.nn.Linear):
            kernel = kernel.T
        elif isinstance(layer, torch.nn.Conv2d) and transposed:  # of stride 1: mirrored twice
            kernel = kernel.transpose(2, 3, 0, 1)
        else:
            kernel = kernel[::-1, ::-1].transpose(3, 2, 0, 1)
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))


@needs_torch
@pytest.mark.parametrize(
    "fields",
    [
        {"bidirectional": True},
        {"cell": "gru", "backwards": False},
        {"cell": "rnn"},
    ],
)
def test_first_loss_of_series_in_torch_is_the_same(fields):
    import torch

    from aejax.benchmark import torch_peer

    own = {f"model__recurrent__{name}": value for name, value in fields.items()}
    config = plan.resolve(common.get_config("recurrent", model__encoder__widths=(6, 5), **own))
    data = sources.load(config)
    built = experiment.build(config, data.spec)
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * np.random.default_rng(0).normal(size=leaf.shape), built.init().params
    )
    x = data.train["x"][:20]
    batch = {"x": jnp.asarray(x)}
    terms, _ = built.objective.terms(params, {}, batch, key=built.key, step=jnp.zeros((), int), train=True)
    loss = torch_peer.Loss(config, data.spec.x.shape)
    with torch.no_grad():
        encoder, decoder = params["encoder"], params["decoder"]
        for part, network in ((encoder, loss.encoder), (decoder, loss.decoder)):
            for i, layer in enumerate(network.layers):
                fill(layer, part[f"layers_{i}"], config.model.recurrent.cell)
        dense = {loss.encoder.code: encoder["layers_2"], loss.decoder.output: decoder["layers_2"]}
        dense |= {start: decoder[f"starts_{i}"] for i, start in enumerate(loss.decoder.starts)}
        for layer, own in dense.items():
            layer.weight.copy_(torch.from_numpy(np.array(own["kernel"].T, np.float32)))
            layer.bias.copy_(torch.from_numpy(np.array(own["bias"], np.float32)))
        found = float(loss(torch.from_numpy(np.asarray(x))))
    expected = built.objective.loss(objective.mean(terms), jnp.zeros((), int))
    np.testing.assert_allclose(found, float(expected), rtol=1e-5)


def fill(layer, params, cell):
    """Copy a recurrent layer of aejax to one of PyTorch, whose products have a bias each."""
    import torch

    ways = 1 + layer.bidirectional
    kernels, biases = np.split(params["input"]["kernel"], ways, 1), np.split(params["input"]["bias"], ways)
    for way, end in zip(range(ways), ("", "_reverse"), strict=False):
        bias = np.zeros(biases[way].shape)
        if cell == "gru":
            bias[2 * layer.hidden_size :] = params[f"bias_{way}"]
        values = {"weight_ih": kernels[way].T, "bias_ih": biases[way], "weight_hh": params[f"kernel_{way}"].T}
        for name, value in (values | {"bias_hh": bias}).items():
            getattr(layer, f"{name}_l0{end}").copy_(torch.from_numpy(np.array(value, np.float32)))
