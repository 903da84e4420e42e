"""Model families by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn

from aejax.models import bottlenecks, conv, mlp
from aejax.models.autoencoder import Autoencoder, Code, Given, LogSigma
from aejax.models.layers import ACTIVATIONS, INITS, NORMS

FAMILIES: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "mlp": (mlp.Encoder, mlp.Decoder),
    "conv": (conv.Encoder, conv.Decoder),
}
BOTTLENECKS: dict[str, type[nn.Module]] = {
    "identity": bottlenecks.Identity,
    "gaussian": bottlenecks.Gaussian,
    "topk": bottlenecks.TopK,
}

__all__ = [
    "ACTIVATIONS",
    "BOTTLENECKS",
    "FAMILIES",
    "INITS",
    "NORMS",
    "Autoencoder",
    "Code",
    "Given",
    "LogSigma",
    "build",
]


def build(
    *,
    name: str,
    encoder: Mapping[str, Any],
    bottleneck: Mapping[str, Any],
    decoder: Mapping[str, Any],
    code_activation: str,
    dtype: str,
    shape: Sequence[int],
    head: nn.Module | None = None,
    **families: Mapping[str, Any],
) -> Autoencoder:
    """The autoencoder of the config's section `model` for outputs of `shape`; each family has a section of its own."""
    encoder_class, decoder_class = FAMILIES[name]
    own = families[name]
    images = len(shape) == 3
    if not images:  # a table, or labels, whatever the encoder is
        decoder_class = mlp.Decoder
    neck = BOTTLENECKS[bottleneck["name"]](size=bottleneck["size"], dtype=dtype, **bottleneck[bottleneck["name"]])
    fields = dict(decoder)
    tied = fields.pop("tied")
    if fields["widths"] is None:
        fields["widths"] = tuple(encoder["widths"])[::-1]
    return Autoencoder(
        encoder=encoder_class(code=neck.inputs, code_activation=code_activation, dtype=dtype, **encoder, **own),
        bottleneck=neck,
        decoder=decoder_class(shape=tuple(shape), dtype=dtype, **fields, **(own if images else {})),
        head=head,
        tied=tied,
    )
