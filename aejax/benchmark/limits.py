"""The limits of a step: its matrix products, each measured alone, and the memory that its optimiser moves.

On a GPU also its published peak.
"""

import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from ml_collections import ConfigDict

from aejax import experiment as experiment_lib
from aejax.data.spec import Spec
from aejax.experiment import State
from aejax.parallel import mesh as mesh_lib
from aejax.training import step as step_lib

OPERATIONS = 2e9  # operations of a product in one measurement, about
REPEATS = 8  # passes over the memory in one measurement
# The same on a GPU, where a dispatch takes as long as many products; and the largest number of repeats of a product.
GPU_OPERATIONS, GPU_REPEATS, GPU_TURNS = 1e12, 100, 1000


class Peak(NamedTuple):
    """Matrix operations of a GPU per second, dense, by the type of the factors; None: no published figure."""

    single: float  # of float32
    arithmetic: str  # of float32 products by default: TF32 if the GPU has it
    bfloat16: float | None


# By JAX's full name of the device: H100 PCIe, H200 NVL, L40S, a part of a GPU (MIG) and others are slower or faster.
# NVIDIA's own figures; half of those that it gives with sparsity:
# - H100 and H200 SXM: "NVIDIA H100 Tensor Core GPU Architecture", table 2, and the data sheet of the H200
# - A100: data sheet "NVIDIA A100 Tensor Core GPU"; L4: data sheet "NVIDIA L4 Tensor Core GPU"
# - T4: data sheet "NVIDIA T4 Tensor Core GPU"; V100: data sheet "NVIDIA V100 Tensor Core GPU"; neither has bfloat16
# - RTX 4090: "NVIDIA Ada GPU Architecture", appendix A, sums in float32
PEAKS = {
    r"NVIDIA H100 80GB HBM3": Peak(494.7e12, "TF32", 989.4e12),
    r"NVIDIA H200": Peak(494.7e12, "TF32", 989.4e12),
    r"(NVIDIA )?A100-(SXM4|PCIE)-\d+GB|NVIDIA A100 80GB PCIe": Peak(156e12, "TF32", 312e12),
    r"NVIDIA L4": Peak(60e12, "TF32", 121e12),
    r"(NVIDIA )?Tesla T4|NVIDIA T4": Peak(8.1e12, "float32", None),
    r"(NVIDIA )?Tesla V100-SXM\d-\d+GB": Peak(15.7e12, "float32", None),
    r"(NVIDIA )?Tesla V100-PCIE-\d+GB": Peak(14e12, "float32", None),
    r"NVIDIA GeForce RTX 4090": Peak(82.6e12, "TF32", 165.2e12),
}


def trace(config: ConfigDict, spec: Spec, mesh: jax.sharding.Mesh) -> jax.stages.Traced:
    """The single step on a mesh, traced from shapes: nothing is computed, and the devices need not exist."""
    experiment = experiment_lib.build(config, spec)
    state = jax.eval_shape(experiment.init)
    n = config.train.batch_size
    batch = {"x": jax.ShapeDtypeStruct((n, *spec.x.shape), spec.x.dtype)}
    if spec.classes:
        batch["y"] = jax.ShapeDtypeStruct((n,), jnp.int32)
    gradients = jax.eval_shape(functools.partial(step_lib.no_gradients, experiment), state.params)
    placed, same = (mesh_lib.state(mesh, tree, fsdp=config.mesh.fsdp) for tree in (state, gradients))
    step = jax.jit(
        functools.partial(step_lib.train_step, experiment=experiment),
        donate_argnums=0,
        in_shardings=(placed, mesh_lib.batch(mesh)),
        out_shardings=(placed, same, mesh_lib.replicated(mesh)),  # gradients too: the loop keeps the last
    )
    return step.trace(state, batch)


def peak_bytes(memory: Any) -> int:
    """Peak bytes by a program's memory analysis: arguments, results that do not replace them, and temporaries."""
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return int(memory.argument_size_in_bytes + results + memory.temp_size_in_bytes)


class Product(NamedTuple):
    """A matrix product or a convolution of a step, with all that determines its speed."""

    primitive: Any
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    params: tuple[tuple[str, Any], ...]
    operations: int  # multiplications and additions

    def __call__(self, *inputs: jax.Array) -> jax.Array:
        made: jax.Array = self.primitive.bind(*inputs, **dict(self.params))
        return made


def products(jaxpr: Any, times: int = 1) -> Counter[Product]:
    """How often a step computes each of its products; the body of a loop of unknown length counts once.

    Of platform-dependent branches the one of this platform counts, of other branches the one with most operations.
    Equal products of the same arrays count once, since XLA computes them once (the closed form of a contractive
    penalty has one).
    """
    found: Counter[Product] = Counter()
    first: dict[Any, Any] = {}  # operation and inputs of an array -> the first such array
    same: dict[Any, Any] = {}  # an array -> the first that is equal to it
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated", "reshape", "transpose"):
            made_of = tuple(same.get(id(v), id(v)) for v in equation.invars)
            made_by = (equation.primitive.name, str(sorted(equation.params.items())))
            made = id(equation.outvars[0])
            same[made] = first.setdefault((made_by, made_of), made)
            if same[made] != made:
                continue
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            inputs = tuple(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars)
            params = tuple(sorted(equation.params.items()))
            found[Product(equation.primitive, inputs, params, _operations(equation))] += times
        if equation.primitive.name == "cond":
            found += _chosen(equation.params, times)
            continue
        length = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in _inner(equation.params.values()):
            found += products(inner, times * length)
    return found


def _chosen(params: dict[str, Any], times: int) -> Counter[Product]:
    branches, platforms = params["branches"], params.get("branches_platforms")
    if platforms:  # None stands for all others
        here = [p is None or jax.default_backend() in p for p in platforms]
        return products(branches[here.index(True)].jaxpr, times)
    counted = [products(branch.jaxpr, times) for branch in branches]
    return max(counted, key=lambda made: sum(product.operations * n for product, n in made.items()))


def _inner(values: Any) -> Iterator[Any]:
    """The programs among the parameters of an equation."""
    for value in values:
        if isinstance(value, tuple | list):
            yield from _inner(value)
        elif hasattr(value, "eqns"):
            yield value
        elif hasattr(value, "jaxpr"):
            yield value.jaxpr


def _operations(equation: Any) -> int:
    first, second = (v.aval.shape for v in equation.invars)
    out = math.prod(equation.outvars[0].aval.shape)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2 * out * math.prod(first[axis] for axis in contracted)
    features = second[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * out * math.prod(second) // features


def peak(device_kind: str, dtype: str) -> tuple[float, str] | None:
    """Published operations per second of a GPU on matrices of `dtype`, and their arithmetic; None: not known."""
    for pattern, known in PEAKS.items():
        if re.fullmatch(pattern, device_kind):
            if dtype == "float32":
                return known.single, known.arithmetic
            return (known.bfloat16, dtype) if dtype == "bfloat16" and known.bfloat16 else None
    return None


def peak_seconds(products: Counter[Product], device_kind: str) -> float | None:
    """Seconds of a step's products at the published peak of their types; None if one is not known."""
    seconds = 0.0
    for product, count in products.items():
        known = peak(device_kind, str(jnp.result_type(*(x.dtype for x in product.inputs))))
        if known is None:
            return None
        seconds += product.operations * count / known[0]
    return seconds


def product_time(product: Product) -> tuple[Callable[[], Any], int]:
    """A compiled function that repeats the product in one dispatch, one after another, and the number of repeats."""
    gpu = jax.default_backend() == "gpu"
    count = max(1, round((GPU_OPERATIONS if gpu else OPERATIONS) / product.operations))
    count = min(count, GPU_TURNS) if gpu else count

    def repeated(first: jax.Array, *others: jax.Array) -> jax.Array:
        def body(_: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            # One entry of the input comes from the last product, so that XLA keeps every product. The whole product is
            # returned; otherwise XLA computes only that entry if the inner dimension is 1.
            first, made = carry
            entry = jnp.tanh(made.ravel()[0]).astype(first.dtype)
            first = first.at[(0,) * first.ndim].set(entry)
            return first, product(first, *others)

        made = jax.eval_shape(product.__call__, first, *others)
        return lax.fori_loop(0, count, body, (first, jnp.zeros(made.shape, made.dtype)))[1]

    inputs = [jax.random.normal(jax.random.key(i), x.shape, x.dtype) for i, x in enumerate(product.inputs)]
    compiled = jax.jit(repeated)
    return lambda: compiled(*inputs), count


def optimizer_bytes(state: State) -> int:
    """Bytes that the optimiser cannot avoid moving: its state read and written once, the gradient read once."""
    return 2 * _bytes((state.params, state.opt_state, state.ema)) + _bytes(state.params)


def stream(state: State) -> tuple[Callable[[], Any], int]:
    """A compiled function that moves memory as an optimiser does, and how many bytes.

    x ← x + s y, `REPEATS` times (on a GPU `GPU_REPEATS`): x is read and written, y is read. Together they are as large
    as the arrays of the optimiser, so that caches hold the same share of them.
    """
    n = (_bytes((state.params, state.opt_state, state.ema)) + _bytes(state.params)) // 8
    x, y = jnp.zeros(n), jnp.ones(n)
    count = GPU_REPEATS if jax.default_backend() == "gpu" else REPEATS
    compiled = jax.jit(lambda x, y: lax.fori_loop(0, count, lambda i, x: x + 0.5 * y, x))
    return lambda: compiled(x, y), count * 3 * 4 * n


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
