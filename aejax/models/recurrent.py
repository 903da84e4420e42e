"""Recurrent encoder and decoder of series [B, T, C] and videos [B, T, H, W, C]; Srivastava et al. (2015)."""

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.fields import Field, at_least, one_of
from aejax.models.autoencoder import Context
from aejax.models.layers import ACTIVATIONS, Dense, Dropout

State = tuple[jax.Array, ...]  # h [B, n], which is the output, and for an LSTM c [B, n]


class Cell(NamedTuple):
    """A step of a cell with n units: (projected input [B, gates n], state, recurrent kernel, its bias) -> state.

    The input is projected before, for all steps in one product.
    """

    gates: int  # the kernels have gates · n columns
    states: int  # arrays of a state
    bias: bool  # whether the product with the state has a bias of its own
    step: Callable[[jax.Array, State, jax.Array, Any], State]


def _rnn(x: jax.Array, state: State, kernel: jax.Array, bias: Any) -> State:
    """h' = tanh(x + h U); Elman (1990)."""
    return (jnp.tanh(x + state[0] @ kernel),)


def _lstm(x: jax.Array, state: State, kernel: jax.Array, bias: Any) -> State:
    """i, f, g, o = x + h U; c' = s(f) c + s(i) tanh(g); h' = s(o) tanh(c'); Hochreiter & Schmidhuber (1997) with the
    forget gate of Gers et al. (2000)."""
    h, c = state
    i, f, g, o = jnp.split(x + h @ kernel, 4, axis=-1)
    c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(c), c


def _gru(x: jax.Array, state: State, kernel: jax.Array, bias: Any) -> State:
    """r = s(x_r + h U_r); u = s(x_u + h U_u); h' = (1 − u) tanh(x_n + r (h U_n + b_n)) + u h; Cho et al. (2014), with
    the reset gate after the product."""
    (h,) = state
    xr, xu, xn = jnp.split(x, 3, axis=-1)
    hr, hu, hn = jnp.split(h @ kernel, 3, axis=-1)
    u = nn.sigmoid(xu + hu)
    return ((1 - u) * jnp.tanh(xn + nn.sigmoid(xr + hr) * (hn + bias[None])) + u * h,)


CELLS = {"rnn": Cell(1, 1, False, _rnn), "lstm": Cell(4, 2, False, _lstm), "gru": Cell(3, 1, True, _gru)}


class Layer(nn.Module):
    """A recurrent layer of `features` units, also backwards in time if `bidirectional`.

    A state starts at 0, or at the one that is given. In the steps where the mask is 0 it keeps its value, so that a
    step that is not there changes nothing.
    """

    features: int
    cell: str
    bidirectional: bool = False
    kernel_init: str = "lecun_normal"
    dtype: str = "float32"

    def setup(self) -> None:
        kind, n = CELLS[self.cell], self.features
        ways = 1 + self.bidirectional
        self.input = Dense(ways * kind.gates * n, self.kernel_init, self.dtype)
        init = _each(nn.initializers.orthogonal(), kind.gates)
        self.kernels = [self.param(f"kernel_{way}", init, (n, kind.gates * n)) for way in range(ways)]
        if kind.bias:
            self.biases = [self.param(f"bias_{way}", nn.initializers.zeros, (n,)) for way in range(ways)]

    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, state: State | None = None, *, steps: int = 0
    ) -> tuple[jax.Array, State]:
        """Outputs [T, B, n] and the last state, [B, n] each, of inputs [T, B, ...] and mask [T, B]; of two directions,
        the one after the other. With `steps` = T, the inputs [1, B, ...] are those of every step."""
        parts = jnp.split(self.input(x), 1 + self.bidirectional, axis=-1)
        found = [self._scan(part, mask, state, way, steps) for way, part in enumerate(parts)]
        outputs, last = zip(*found, strict=True)
        return jnp.concatenate(outputs, -1), tuple(jnp.concatenate(ways, -1) for ways in zip(*last, strict=True))

    def _scan(
        self, x: jax.Array, mask: jax.Array | None, state: State | None, way: int, steps: int
    ) -> tuple[jax.Array, State]:
        step = self.step(way)

        def one(state: State, inputs: tuple[jax.Array | None, jax.Array | None]) -> tuple[State, jax.Array]:
            now, present = inputs
            made = step(x[0] if now is None else now, state)
            if present is not None:
                made = tuple(jnp.where(present[:, None], new, old) for new, old in zip(made, state, strict=True))
            return made, made[0]

        if state is None:
            state = (jnp.zeros((x.shape[1], self.features), self.dtype),) * CELLS[self.cell].states
        last, outputs = jax.lax.scan(one, state, (None if steps else x, mask), steps or len(x), reverse=bool(way))
        return outputs, last

    def project(self, x: jax.Array) -> jax.Array:
        """The part of the gates that comes from the input."""
        return self.input(x)

    def step(self, way: int = 0) -> Callable[[jax.Array, State], State]:
        """(projected input [B, gates n], state) -> state."""
        kind, kernel = CELLS[self.cell], self.kernels[way].astype(self.dtype)
        bias = self.biases[way].astype(self.dtype) if kind.bias else None
        return lambda x, state: kind.step(x, state, kernel, bias)


class _Part(nn.Module, kw_only=True):
    """The fields that encoder and decoder share."""

    cell: Annotated[str, Field("cell: rnn | lstm | gru", one_of(CELLS))] = "lstm"
    bidirectional: Annotated[bool, Field("the encoder also reads the series from its end")] = False
    conditional: Annotated[
        bool, Field("the decoder reads its own output of the step before; without it, the code in every step")
    ] = False
    backwards: Annotated[bool, Field("the decoder writes the last step of the series first")] = True
    future: Annotated[
        int,
        Field(
            "so many last steps are predicted by a second decoder, from the first to the last: the composite model; "
            "0 = one decoder writes all steps",
            at_least(0),
        ),
    ] = 0
    widths: Sequence[int] = ()  # units of each recurrent layer
    dropout: float = 0.0  # of the outputs of a layer, the same units in all steps; Gal & Ghahramani (2016)
    kernel_init: str = "lecun_normal"
    dtype: str = "float32"

    def recurrent(self, bidirectional: bool) -> list[Layer]:
        return [Layer(n, self.cell, bidirectional, self.kernel_init, self.dtype) for n in self.widths]


class Encoder(_Part, kw_only=True):
    """x [B, T, C], NaN where nothing was observed -> code layer [B, code], last output of each layer, the lengths.

    A missing value is 0, the mean of its channel. Steps after the last observed one are not there. Each layer reads the
    outputs of the one before; the code layer reads the last output of the last layer, of both directions.
    """

    code: int = 0
    code_activation: str = "identity"

    def setup(self) -> None:
        self.layers = [*self.recurrent(self.bidirectional), Dense(self.code, self.kernel_init, self.dtype)]
        self.dropouts = [Dropout(self.dropout) for _ in self.widths]

    def __call__(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, tuple[jax.Array, ...], Context]:
        x = x.reshape(*x.shape[:2], -1)  # [B, T, C]
        length = lengths(x)
        mask = jnp.arange(x.shape[1])[:, None] < length[None]  # [T, B]
        x = jnp.nan_to_num(x).astype(self.dtype).swapaxes(0, 1)  # [T, B, C]
        hidden = []
        for layer, dropout in zip(self.layers, self.dropouts, strict=False):
            x, (last, *_) = layer(x, mask)
            kept = dropout(jnp.ones_like(last), train=train)
            x, last = x * kept[None], last * kept
            hidden.append(last)
        return ACTIVATIONS[self.code_activation](self.layers[-1](last)), tuple(hidden), Context(length=length)


class Decoder(_Part, kw_only=True):
    """z [B, code] -> r [B, T, C], parameters of the likelihood.

    Each layer starts at tanh(z W + b). The first one reads z in every step, or if `conditional` the last output (at
    first 0). A decoder that goes backwards writes first what the encoder read last; Sutskever et al. (2014). Without
    the lengths of the encoder it writes T steps. The composite model writes the last `future` steps by a decoder with
    parameters of its own, which reads the same code.
    """

    shape: Sequence[int] = ()  # (T, C) or (T, H, W, C)
    needs_context = False

    @property
    def last(self) -> str:
        """The layer whose bias is added to the output."""
        return f"layers_{len(self.widths)}"

    @property
    def steps(self) -> int:
        """The steps that this decoder writes."""
        return self.shape[0] - self.future

    def setup(self) -> None:
        states = CELLS[self.cell].states
        self.starts = [Dense(states * n, self.kernel_init, self.dtype) for n in self.widths]
        self.layers = [*self.recurrent(False), Dense(prod(self.shape[1:]), self.kernel_init, self.dtype)]
        self.dropouts = [Dropout(self.dropout) for _ in self.widths]
        if self.future:
            own = ("cell", "conditional", "widths", "dropout", "kernel_init", "dtype")
            fields = {name: getattr(self, name) for name in own}
            self.predictor = Decoder(**fields, shape=(self.future, *self.shape[1:]), backwards=False)

    def __call__(
        self,
        z: jax.Array,
        context: Context = Context(),  # noqa: B008  (never changed)
        *,
        kernels: Sequence[jax.Array] | None = None,
        train: bool = False,
    ) -> jax.Array:
        z = z.reshape(z.shape[0], -1).astype(self.dtype)
        states = [tuple(jnp.split(jnp.tanh(start(z)), CELLS[self.cell].states, axis=-1)) for start in self.starts]
        kept = [dropout(jnp.ones_like(h), train=train) for dropout, (h, *_) in zip(self.dropouts, states, strict=True)]
        r = self._fed_back(states, kept) if self.conditional else self._free(z, states, kept)
        r = self._forwards(r.swapaxes(0, 1), context).reshape(z.shape[0], self.steps, *self.shape[1:])
        return jnp.concatenate([r, self.predictor(z, train=train)], 1) if self.future else r

    def _forwards(self, r: jax.Array, context: Context) -> jax.Array:
        """Outputs [B, T, C] as they were written, in the order of time."""
        if not self.backwards:
            return r
        if context.length is None:
            return r[:, ::-1]
        place = jnp.maximum(context.length[:, None] - 1 - jnp.arange(self.steps)[None], 0)
        return jnp.take_along_axis(r, place[..., None], axis=1)

    def _free(self, z: jax.Array, states: Sequence[State], kept: Sequence[jax.Array]) -> jax.Array:
        """Outputs [T, B, C] layer by layer."""
        x, steps = z[None], self.steps  # the first layer reads the same code in every step: projected once
        for layer, state, mask in zip(self.layers, states, kept, strict=False):
            x, steps = layer(x, state=state, steps=steps)[0] * mask[None], 0
        return self.layers[-1](x)

    def _fed_back(self, states: Sequence[State], kept: Sequence[jax.Array]) -> jax.Array:
        """Outputs [T, B, C] step by step."""
        steps = [layer.step() for layer in self.layers[:-1]]

        def one(module: "Decoder", carry: tuple[Any, jax.Array], _: None) -> tuple[tuple[Any, jax.Array], jax.Array]:
            states, x = carry
            made = []
            for layer, step, state, mask in zip(module.layers, steps, states, kept, strict=False):
                made.append(step(layer.project(x), state))
                x = made[-1][0] * mask
            r = module.layers[-1](x)
            return (made, r), r

        scan = nn.scan(one, variable_broadcast="params", split_rngs={"params": False}, length=self.steps)
        begin = jnp.zeros((kept[0].shape[0], prod(self.shape[1:])), self.dtype)
        return scan(self, (list(states), begin), None)[1]


def lengths(x: jax.Array) -> jax.Array:
    """The number of steps [B] up to the last one with an observed value of x [B, T, C], at least 1."""
    present = (~jnp.isnan(x)).any(-1) * jnp.arange(1, x.shape[1] + 1)[None]
    return jnp.maximum(present.max(1), 1)


def check(config: Any) -> Iterator[FieldError]:
    """Errors of the section `model` for a recurrent model."""
    model = config.model
    for part in ("encoder", "decoder"):
        widths = model[part].widths
        if widths is not None and not widths:
            yield FieldError(f"model.{part}.widths", (), "must name at least one recurrent layer")


def check_data(config: Any, spec: Spec) -> Iterator[FieldError]:
    """Errors of a recurrent model on data of `spec`."""
    if spec.x.kind not in ("series", "video"):
        allowed = f"needs series or videos; the data are a {spec.x.kind}: data.kind = 'series' for [N, time, channels]"
        yield FieldError("model.name", config.model.name, allowed)
        return
    if config.model.recurrent.future >= spec.x.shape[0]:
        allowed = f"must be less than the {spec.x.shape[0]} steps of the data"
        yield FieldError("model.recurrent.future", config.model.recurrent.future, allowed)


def _each(init: nn.initializers.Initializer, gates: int) -> nn.initializers.Initializer:
    """The initialiser for each gate's block of columns on its own."""

    def make(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        block = (shape[0], shape[1] // gates)
        return jnp.concatenate([init(k, block, dtype) for k in jax.random.split(key, gates)], axis=1)

    return make
