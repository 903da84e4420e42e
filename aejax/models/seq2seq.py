"""Sequence to sequence (Sutskever et al. 2014): a text, series, image or video is read, a sequence of tokens written.

The encoder is recurrent for tokens and series, a convolutional network for each frame and then recurrent for videos
(Donahue et al. 2015), and a convolutional network for one image (Vinyals et al. 2015).
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from aejax.data import tokens
from aejax.data.spec import Spec
from aejax.errors import FieldError, InputError
from aejax.fields import WIDTHS, Field, at_least, one_of
from aejax.models.autoencoder import Context
from aejax.models.conv import Conv
from aejax.models.layers import ACTIVATIONS, Dense, Dropout
from aejax.models.recurrent import CELLS, Layer, State, lengths


class Cache(NamedTuple):
    """What a decoder reads in each step of writing."""

    z: jax.Array  # [B, code]
    memory: jax.Array | None  # [B, S, n] outputs of the encoder, with attention
    keys: jax.Array | None  # [B, S, units]
    present: jax.Array | None  # [B, S] whether there is such a step


class _Part(nn.Module, kw_only=True):
    """The fields that encoder and decoder share."""

    cell: Annotated[str, Field("cell: rnn | lstm | gru", one_of(CELLS))] = "lstm"
    bidirectional: Annotated[bool, Field("the encoder also reads the sequence from its end")] = True
    embedding: Annotated[int, Field("numbers that stand for a token", at_least(1))] = 64
    channels: Annotated[
        Sequence[int], Field("images and frames: channels of each convolution, which halves height and width", WIDTHS)
    ] = (16, 32)
    attention: Annotated[
        bool,
        Field("each step also reads a weighted mean of the encoder's outputs, beside the code (Luong et al. 2015)"),
    ] = True
    widths: Sequence[int] = ()  # units of each recurrent layer
    activation: str = "relu"  # of the convolutions
    dropout: float = 0.0  # of the outputs of a layer, the same units in all steps; Gal & Ghahramani (2016)
    kernel_init: str = "lecun_normal"
    dtype: str = "float32"

    def recurrent(self, bidirectional: bool) -> list[Layer]:
        return [Layer(n, self.cell, bidirectional, self.kernel_init, self.dtype) for n in self.widths]

    def table(self, size: int) -> jax.Array:
        """The embedding of each token, [size, embedding]."""
        made: jax.Array = self.param("embedding_table", nn.initializers.normal(1.0), (size, self.embedding))
        return made.astype(self.dtype)


class Encoder(_Part, kw_only=True):
    """x -> code layer [B, code], last output of each recurrent layer, and what attention reads.

    x: numbers of tokens [B, S], series [B, S, C], images [B, H, W, C] or videos [B, S, H, W, C]. Attention reads the
    outputs of the last recurrent layer; of an image, which has no such layer, the places of the last map (Xu et al.
    2015); of a video, the places of each frame's last map, each beside the output at its frame.
    """

    code: int = 0
    code_activation: str = "identity"
    rank: int = 2  # of x
    vocabulary: int = 0  # tokens that x may hold

    def setup(self) -> None:
        if self.rank == 2:
            self.embedded = self.table(self.vocabulary)
        if self.rank > 3:
            self.blocks = [Conv(n, 3, 2, self.kernel_init, self.dtype, True) for n in self.channels]
        self.layers = self.recurrent(self.bidirectional) if self.rank != 4 else []
        self.dropouts = [Dropout(self.dropout) for _ in self.layers]
        self.code_layer = Dense(self.code, self.kernel_init, self.dtype)

    def __call__(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, tuple[jax.Array, ...], Context]:
        maps = self._maps(x) if self.rank > 3 else None  # [B, S, h w, c]
        x, present = self._steps(x, maps)  # [B, S, n]
        hidden: list[jax.Array] = []
        last = x.reshape(x.shape[0], -1) if not self.layers else x
        x = x.swapaxes(0, 1)  # [S, B, n]
        for layer, dropout in zip(self.layers, self.dropouts, strict=True):
            x, (last, *_) = layer(x, present.T)
            kept = dropout(jnp.ones_like(last), train=train)
            x, last = x * kept[None], last * kept
            hidden.append(last)
        memory = x.swapaxes(0, 1)
        if maps is not None and self.layers:
            outputs = jnp.broadcast_to(memory[:, :, None], (*maps.shape[:3], memory.shape[-1]))
            memory = jnp.concatenate([maps, outputs], -1).reshape(x.shape[1], -1, maps.shape[-1] + memory.shape[-1])
            present = jnp.ones(memory.shape[:2], bool)
        context = Context(memory=(memory, present) if self.attention else None)
        return ACTIVATIONS[self.code_activation](self.code_layer(last)), tuple(hidden), context

    def _maps(self, x: jax.Array) -> jax.Array:
        """The places of the last map of each frame [B, S, h w, c]; an image is one frame."""
        frames = x.reshape(-1, *x.shape[-3:]).astype(self.dtype)
        for block in self.blocks:
            frames = ACTIVATIONS[self.activation](block(frames))  # [B S, h, w, c]
        return frames.reshape(x.shape[0], -1, frames.shape[1] * frames.shape[2], frames.shape[3])

    def _steps(self, x: jax.Array, maps: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """The inputs [B, S, n] of the recurrent layers, and whether each step is there, [B, S]."""
        if self.rank == 2:
            numbers = x.astype(jnp.int32)
            return self.embedded[numbers], numbers != tokens.PAD
        if self.rank == 3:
            return jnp.nan_to_num(x).astype(self.dtype), jnp.arange(x.shape[1])[None] < lengths(x)[:, None]
        assert maps is not None
        # The largest value of each channel tells what is seen wherever it is.
        flat = jnp.concatenate([maps.reshape(*maps.shape[:2], -1), maps.max(2)], -1)
        steps = maps[:, 0] if self.rank == 4 else flat
        return steps, jnp.ones(steps.shape[:2], bool)


class Decoder(_Part, kw_only=True):
    """z [B, code] -> logits [B, L, V] of each token of the sequence.

    Each layer starts at tanh(z W + b). The first one reads the token before, at first BEGIN, and z (Cho et al. 2014).
    With attention, of the output h of the last layer and the encoder's outputs m_s (Luong et al. 2015, "general"):

        a = softmax_s(h · K m_s),   c = Σ_s a_s m_s,   output tanh(W [h, c]).

    The token before is that of the context's condition [B, L]; without one it is the most probable one: greedy.
    """

    shape: Sequence[int] = ()  # (L, V)

    @property
    def needs_context(self) -> bool:
        """Whether a code alone cannot be decoded."""
        return self.attention

    @property
    def last(self) -> str:
        """The layer whose bias is added to the output."""
        return "logits"

    def setup(self) -> None:
        states = CELLS[self.cell].states
        self.embedded = self.table(self.shape[1])
        self.starts = [Dense(states * n, self.kernel_init, self.dtype) for n in self.widths]
        self.layers = self.recurrent(False)
        self.dropouts = [Dropout(self.dropout) for _ in self.widths]
        self.logits = Dense(self.shape[1], self.kernel_init, self.dtype)
        if self.attention:
            self.key = Dense(self.widths[-1], self.kernel_init, self.dtype, use_bias=False)
            self.mix = Dense(self.widths[-1], self.kernel_init, self.dtype)

    def __call__(
        self,
        z: jax.Array,
        context: Context = Context(),  # noqa: B008  (never changed)
        *,
        kernels: Sequence[jax.Array] | None = None,
        train: bool = False,
    ) -> jax.Array:
        states, cache = self.start(z, context)
        if context.condition is not None:
            return self.write(context.condition, states, cache, train=train)[0]

        def one(module: "Decoder", carry: Any, _: None) -> tuple[Any, jax.Array]:
            states, token = carry
            logits, states = module.step(token, states, cache)
            return (states, jnp.argmax(logits, -1)), logits

        scan = nn.scan(one, variable_broadcast="params", split_rngs={"params": False}, length=self.shape[0])
        begin = jnp.full(z.shape[0], tokens.BEGIN)
        return scan(self, (states, begin), None)[1].swapaxes(0, 1)

    def start(self, z: jax.Array, context: Context) -> tuple[list[State], Cache]:
        """The state of each layer before the first token, and what each step reads."""
        z = z.reshape(z.shape[0], -1).astype(self.dtype)
        states = [tuple(jnp.split(jnp.tanh(start(z)), CELLS[self.cell].states, axis=-1)) for start in self.starts]
        if not self.attention:
            return states, Cache(z, None, None, None)
        if context.memory is None:
            raise InputError(
                "decode: a decoder with config.model.seq2seq.attention reads the example besides the code; write(x) "
                "gives the sequences"
            )
        memory, present = context.memory
        return states, Cache(z, memory, self.key(memory), present)

    def step(self, token: jax.Array, states: Sequence[State], cache: Cache) -> tuple[jax.Array, list[State]]:
        """Logits [B, V] after a token [B], and the states after it."""
        logits, states, _ = self.write(token[:, None], states, cache)
        return logits[:, 0], states

    def write(
        self, before: jax.Array, states: Sequence[State], cache: Cache, *, train: bool = False
    ) -> tuple[jax.Array, list[State], jax.Array | None]:
        """Logits [B, L, V] after each of the tokens `before` [B, L], the last states, and the attention [B, L, S]."""
        z = jnp.broadcast_to(cache.z[:, None], (*before.shape, cache.z.shape[-1]))
        x = jnp.concatenate([self.embedded[before], z], -1).swapaxes(0, 1)  # [L, B, n]
        made = []
        for layer, dropout, state in zip(self.layers, self.dropouts, states, strict=True):
            x, last = layer(x, state=state)
            x = x * dropout(jnp.ones_like(last[0]), train=train)[None]
            made.append(last)
        x = x.swapaxes(0, 1)  # [B, L, n]
        attended = None
        if cache.memory is not None and cache.keys is not None and cache.present is not None:
            scores = jnp.einsum("bln,bsn->bls", x, cache.keys)
            attended = nn.softmax(jnp.where(cache.present[:, None], scores, -jnp.inf))
            x = jnp.tanh(self.mix(jnp.concatenate([x, attended @ cache.memory], -1)))
        return self.logits(x), made, attended


def check(config: Any) -> Iterator[FieldError]:
    """Errors of the section `model` for a model that writes sequences."""
    model = config.model
    for part in ("encoder", "decoder"):
        widths = model[part].widths
        if widths is not None and not widths:
            yield FieldError(f"model.{part}.widths", (), "must name at least one recurrent layer")
    if model.decoder.bias_init != "zeros":
        yield FieldError("model.decoder.bias_init", model.decoder.bias_init, "must be zeros for tokens")


def check_data(config: Any, spec: Spec) -> Iterator[FieldError]:
    """Errors of a model that writes sequences on data of `spec`."""
    writes = config.pair.name == "caption" or (config.pair.name == "reconstruct" and spec.x.kind == "tokens")
    if not writes and config.pair.name != "label":
        allowed = "writes tokens: it needs pair.name = 'caption', or 'reconstruct' with data.kind = 'tokens'"
        yield FieldError("model.name", config.model.name, allowed)
    if spec.x.kind == "table":
        yield FieldError(
            "model.name", config.model.name, "needs tokens, series, images or videos; the data are a table"
        )
    if spec.x.kind == "image" and config.model.decoder.widths is None:
        allowed = "must name the recurrent layers of the decoder: the encoder of an image has none"
        yield FieldError("model.decoder.widths", None, allowed)
