"""The config that `fit` uses if none is given."""

import math

from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax.data.spec import Spec

LARGE = 64 * 64  # smallest number of values in an image for convolutions
STEPS = 2000


def suited(spec: Spec) -> ConfigDict:
    """A config for the kind of data. Tables: a code of half the columns, at most 16 units. Images: a code of 32 units,
    with convolutions if they are large. Series: dilated convolutions, a code of 16 units. Texts and other counts: the
    config `text`.
    """
    x = spec.x
    config = config_lib.shipped("text", "array") if x.text or _counts(spec) else config_lib.default("array")
    model = config.model
    if x.kind == "image" and math.prod(x.shape) >= LARGE:
        config.name = model.name = "conv"
        model.encoder.widths, model.conv.channels = (), (32, 64, 64)
        model.conv.upsample = "transpose"
    elif x.kind == "image":
        model.encoder.widths = (512, 256)
    elif x.kind == "series":
        config.name = model.name = "conv1d"
        model.encoder.widths, model.bottleneck.size, config.optim.clip = (), 16, 1.0
        config.objective.likelihood = "squared_error"
    if x.kind == "image":
        model.bottleneck.size = 32
        config.objective.likelihood = "squared_error"
    elif x.kind == "table" and config.name != "text":
        model.encoder.widths = (128, 64)
        model.bottleneck.size = max(min(x.shape[0] // 2, 16), 1)
        model.encoder.activation = "gelu"
        config.objective.likelihood = "squared_error"
        config.optim.name, config.optim.weight_decay, config.optim.learning_rate = "adamw", 0.1, 3e-3
    config.train.steps = STEPS
    config.train.batch_size = max(min(128, spec.train // 4), 1)
    config.optim.schedule = "cosine"
    return config


def _counts(spec: Spec) -> bool:
    return spec.x.sparse and spec.x.low >= 0
