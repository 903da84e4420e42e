"""What bounds a step: its matrix products, each measured alone, and the memory that its optimiser moves."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from ml_collections import ConfigDict

from aejax import mesh as mesh_lib
from aejax import steps
from aejax.data.dataset import Spec
from aejax.steps import State

OPERATIONS = 2e9  # of the products in one measurement, about
REPEATS = 8  # passes over the memory in one measurement


def trace(config: ConfigDict, spec: Spec, mesh: jax.sharding.Mesh) -> jax.stages.Traced:
    """The single step on a mesh, from shapes alone: nothing is computed, and its devices need not be there."""
    experiment = steps.build(config, spec, 1)
    state = jax.eval_shape(lambda: steps.init(experiment, spec))
    n = config.train.batch_size
    batch = {"x": jax.ShapeDtypeStruct((n, *spec.shape), spec.dtype)}
    if spec.classes:
        batch["y"] = jax.ShapeDtypeStruct((n,), jnp.int32)
    placed = mesh_lib.state(mesh, state, fsdp=config.mesh.fsdp)
    step = jax.jit(
        functools.partial(steps.train_step, experiment=experiment),
        donate_argnums=0,
        in_shardings=(placed, mesh_lib.batch(mesh)),
        out_shardings=(placed, placed.params, mesh_lib.replicated(mesh)),  # gradients too: the loop keeps the last
    )
    return step.trace(state, batch)


def peak_bytes(memory: Any) -> int:
    """Of a compiled program's memory analysis: arguments, results that do not take their place, what lies between."""
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return int(memory.argument_size_in_bytes + results + memory.temp_size_in_bytes)


class Product(NamedTuple):
    """A matrix product or a convolution of a step, with what determines its speed."""

    primitive: Any
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    params: tuple[tuple[str, Any], ...]
    operations: int  # multiplications and additions

    def __call__(self, *inputs: jax.Array) -> jax.Array:
        made: jax.Array = self.primitive.bind(*inputs, **dict(self.params))
        return made


def products(jaxpr: Any, times: int = 1) -> Counter[Product]:
    """How often a step makes each of its products here; the body of a loop of unknown length counts once.

    Of what depends on the platform, the branch of this one counts; of another choice, the one with most to do.
    """
    found: Counter[Product] = Counter()
    for equation in jaxpr.eqns:
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


def product_time(product: Product) -> tuple[Callable[[], Any], int]:
    """A compiled function that makes the product, and how often: in one dispatch, each after the last."""
    count = max(1, round(OPERATIONS / product.operations))

    def repeated(first: jax.Array, *others: jax.Array) -> jax.Array:
        def body(_: Any, first: jax.Array) -> jax.Array:
            # One entry of the next input comes from this product, so that none is left out.
            entry = jnp.tanh(product(first, *others).ravel()[0]).astype(first.dtype)
            return first.at[(0,) * first.ndim].set(entry)

        return lax.fori_loop(0, count, body, first)

    inputs = [jax.random.normal(jax.random.key(i), x.shape, x.dtype) for i, x in enumerate(product.inputs)]
    compiled = jax.jit(repeated)
    return lambda: compiled(*inputs), count


def optimizer_bytes(state: State) -> int:
    """Bytes that the optimiser cannot avoid moving: its state read and written once, the gradient read once."""
    return 2 * _bytes((state.params, state.opt_state, state.ema)) + _bytes(state.params)


def stream(state: State) -> tuple[Callable[[], Any], int]:
    """A compiled function that moves memory as an optimiser does, and how many bytes.

    x ← x + s y, `REPEATS` times: x read and written, y read. Both together are as large as what the optimiser
    touches, so that caches hold as much of them.
    """
    n = (_bytes((state.params, state.opt_state, state.ema)) + _bytes(state.params)) // 8
    x, y = jnp.zeros(n), jnp.ones(n)
    compiled = jax.jit(lambda x, y: lax.fori_loop(0, REPEATS, lambda i, x: x + 0.5 * y, x))
    return lambda: compiled(x, y), REPEATS * 3 * 4 * n


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
