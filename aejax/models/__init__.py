"""Model families and bottlenecks by name."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import flax.linen as nn

from aejax import fields
from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.fields import Field, at_least, one_of
from aejax.models import bottlenecks, conv, conv1d, layers, mlp, recurrent, seq2seq
from aejax.models.autoencoder import Autoencoder, Code, Context, LogSigma
from aejax.models.bottlenecks import Neck
from aejax.models.layers import ACTIVATIONS, INITS, NORMS


def _no_errors(*_: Any) -> Iterator[FieldError]:
    return iter(())


class Family(NamedTuple):
    """The modules of a family; their annotated fields make up its section `model.NAME`.

    encoder(code, code_activation, dtype, **fields): (x, train) -> (code layer, hidden activations, Context). A family
    whose encoder has the method `kernels()` can tie its weights. decoder(shape, dtype, **fields): (z, context, kernels,
    train) -> r [B, *shape]. Its attribute `needs_context` says that it cannot decode a code alone; `last` names the
    layer whose bias is added to r. Each takes the fields of `model.encoder` or `model.decoder` that it has as
    attributes; the other fields must keep their default. An encoder with the attributes `rank` and `vocabulary` is told
    the rank of its input and the number of its tokens. A decoder with the methods `start`, `step` and `write` writes
    tokens: it reads the condition, the tokens before each one, itself (see `seq2seq.Decoder`).

    `x`, `z` and `shape` may have any rank; `check_data` refuses unsuitable data. Labels are always decoded by dense
    layers (`mlp.Decoder`). Encoder layers are numbered (layers_0, layers_1, ...); `finetune.freeze` and
    `finetune.layer_decay` use the numbers. Convolutional layers come first; the dense layers after them are in `dense`.
    Jacobians use a clone of the encoder with dtype = float32.
    """

    encoder: type[nn.Module]
    decoder: type[nn.Module]
    check: Callable[[Any], Iterator[FieldError]] = _no_errors
    check_data: Callable[[Any, Spec], Iterator[FieldError]] = _no_errors
    code_map: bool = False  # the last map can be the code: bottleneck.size = 0
    reads_missing: bool = False  # a value of the input that was not observed is NaN, not 0


FAMILIES: dict[str, Family] = {
    "mlp": Family(mlp.Encoder, mlp.Decoder),
    "conv": Family(conv.Encoder, conv.Decoder, conv.check, conv.check_data, code_map=True),
    "conv1d": Family(conv1d.Encoder, conv1d.Decoder, conv1d.check, conv1d.check_data),
    "recurrent": Family(
        recurrent.Encoder, recurrent.Decoder, recurrent.check, recurrent.check_data, reads_missing=True
    ),
    "seq2seq": Family(seq2seq.Encoder, seq2seq.Decoder, seq2seq.check, seq2seq.check_data, reads_missing=True),
}
BOTTLENECKS: dict[str, type[nn.Module]] = {
    "identity": bottlenecks.Identity,
    "gaussian": bottlenecks.Gaussian,
    "topk": bottlenecks.TopK,
    "nested": bottlenecks.Nested,
}


@dataclasses.dataclass(frozen=True)
class Fields:
    name: Annotated[
        str,
        Field(
            "model family: mlp | conv (images) | conv1d, recurrent (series) | seq2seq (writes tokens)", one_of(FAMILIES)
        ),
    ] = "mlp"
    code_activation: Annotated[str, Field("activation of the code layer", one_of(ACTIVATIONS))] = "identity"
    dtype: Annotated[str, Field("type of the computation; parameters are float32", one_of(("float32", "bfloat16")))] = (
        "float32"
    )


@dataclasses.dataclass(frozen=True)
class BottleneckFields:
    name: Annotated[
        str,
        Field(
            "bottleneck: identity | gaussian (reparameterised) | topk (k-sparse) | nested (nested dropout)",
            one_of(BOTTLENECKS),
        ),
    ] = "identity"
    size: Annotated[int, Field("units of the code; conv: 0 = the last feature map is the code", at_least(0))] = 2


@dataclasses.dataclass(frozen=True)
class DecoderFields:
    widths: Annotated[
        tuple | None, Field("units of each hidden layer; null = those of the encoder in reverse order", fields.WIDTHS)
    ] = None
    tied: Annotated[bool, Field("the kernels are the transposed kernels of the encoder; the biases are separate")] = (
        False
    )
    bias_init: Annotated[
        str,
        Field(
            "initial bias of the last layer: zeros | data_mean (the output at a zero code is the training mean)",
            one_of(("zeros", "data_mean")),
        ),
    ] = "zeros"


def build(
    config: Any, *, shape: Sequence[int], output: str = "x", head: nn.Module | None = None, **of_input: Any
) -> Autoencoder:
    """The autoencoder of the config's section `model` for outputs of `shape`; `output`: the name of the head.

    of_input: `rank` and `vocabulary` of the input, for encoders that have such attributes.
    """
    family, labels = FAMILIES[config.name], output == "y"
    encoder, decoder = family.encoder, mlp.Decoder if labels else family.decoder  # labels come from dense layers
    neck_class, dtype = BOTTLENECKS[config.bottleneck.name], config.dtype
    neck_fields = fields.chosen(neck_class, config.bottleneck[config.bottleneck.name])
    neck = neck_class(size=config.bottleneck.size, dtype=dtype, **_tuples(neck_fields))
    decoder_fields = {name: config.decoder[name] for name in fields.declared(layers.Fields)}
    if decoder_fields["widths"] is None:
        decoder_fields["widths"] = tuple(config.encoder.widths)[::-1]
    shared = {"code": neck.inputs, "code_activation": config.code_activation, "dtype": dtype}
    own = config[config.name]
    return Autoencoder(
        encoder=encoder(
            **shared,
            **{name: value for name, value in of_input.items() if name in encoder.__dataclass_fields__},
            **_accepted(encoder, config.encoder),
            **_tuples(fields.chosen(encoder, own)),
        ),
        bottleneck=neck,
        decoder=decoder(
            shape=tuple(shape),
            dtype=dtype,
            **_accepted(decoder, decoder_fields),
            **_tuples({} if labels else fields.chosen(decoder, own)),
        ),
        head=head,
        tied=config.decoder.tied,
        output=output,
    )


def check(config: Any) -> Iterator[FieldError]:
    """Errors of the section `model` with the rest of the config."""
    model = config.model
    family, bottleneck = FAMILIES[model.name], BOTTLENECKS[model.bottleneck.name]
    for part, module in (("encoder", family.encoder), ("decoder", family.decoder)):
        for name, field in fields.declared(layers.Fields).items():
            usual = None if part == "decoder" and name == "widths" else field.default
            if name not in module.__dataclass_fields__ and model[part][name] != usual:
                allowed = f"must be {usual!r}: model.name = {model.name!r} has no such field"
                yield FieldError(f"model.{part}.{name}", model[part][name], allowed)
    if hasattr(bottleneck, "check"):
        yield from bottleneck.check(config)
    if model.decoder.tied and not hasattr(family.encoder, "kernels"):
        yield FieldError("model.decoder.tied", True, f"must be False: model.name = {model.name!r} shares no kernels")
    if model.decoder.tied:
        mirror = tuple(model.encoder.widths)[::-1]
        if model.decoder.widths is not None and tuple(model.decoder.widths) != mirror:
            allowed = f"must be {mirror} (or null) for tied weights"
            yield FieldError("model.decoder.widths", model.decoder.widths, allowed)
    if not family.code_map and model.bottleneck.size < 1:
        allowed = f"must be at least 1 for model.name = {model.name}"
        yield FieldError("model.bottleneck.size", model.bottleneck.size, allowed)
    conditional = config.pair.name == "inpaint" and config.pair.inpaint.conditional
    if model.bottleneck.gaussian.prior_widths and not conditional:
        yield FieldError(
            "model.bottleneck.gaussian.prior_widths",
            tuple(model.bottleneck.gaussian.prior_widths),
            "must be () unless pair.name = inpaint and pair.inpaint.conditional = True",
        )
    yield from family.check(config)


def is_one_layer(model: Any) -> bool:
    """Whether the encoder of the section `model` is one dense layer with an elementwise activation."""
    return model.name == "mlp" and not model.encoder.widths


def _accepted(module: type[nn.Module], section: Mapping[str, Any]) -> dict[str, Any]:
    """The shared fields that the module has."""
    names = fields.declared(layers.Fields)
    return _tuples({name: section[name] for name in names if name in module.__dataclass_fields__})


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list | tuple) else value for name, value in values.items()}


__all__ = [
    "ACTIVATIONS",
    "BOTTLENECKS",
    "FAMILIES",
    "INITS",
    "NORMS",
    "Autoencoder",
    "Code",
    "Context",
    "Family",
    "LogSigma",
    "Neck",
    "build",
    "check",
    "is_one_layer",
]
