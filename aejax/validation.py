"""Every check of a config: alone, and against the data. Each failure is one line, before anything is written."""

import math
import re
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from aejax import likelihoods, models, optim, pairs, penalties
from aejax.config import check_fields, fail, flatten, get, stage_sections
from aejax.data import bags
from aejax.data.dataset import Spec
from aejax.models import conv
from aejax.models.convolution import sizes
from aejax.objective import PENALTIES, SCHEDULES, one_layer

FLOAT32_MAX = 3.4028234663852886e38
MOST = 4 * 2**30  # bytes of a sparse table once it is dense on the device


def validate(config: ConfigDict) -> None:
    """Check every field that can be checked without the data; raises InputError with one line."""
    check_fields(config)
    for field, names in choices().items():
        if get(config, field) not in names:
            raise fail(field, get(config, field), f"must be one of {', '.join(names)}")
    if not re.fullmatch(r"[\w.-]+", config.name) or config.name.startswith("."):
        raise fail("name", config.name, "must be letters, digits, _, - and dots: it begins the run directory's name")
    for path, value in flatten(config.to_dict()).items():
        if isinstance(value, float) and not abs(value) <= FLOAT32_MAX:  # so that NaN is caught too
            raise fail(path, value, "must be finite in float32")
    for allowed, accept, fields in RANGES:
        for field in fields:
            if not accept(get(config, field)):
                raise fail(field, get(config, field), allowed)
    for path in WIDTHS:
        widths = get(config, path)
        if widths is not None and not all(type(w) is int and w >= 1 for w in widths):
            raise fail(path, widths, "must be a tuple of integers of at least 1")
    size = config.data.image_size
    if size is not None and not (len(size) == 2 and all(type(n) is int and n >= 1 for n in size)):
        raise fail("data.image_size", size, "must be (height, width), integers of at least 1")
    box = config.figures.box
    if box is not None and not (len(box) == 4 and box[0] < box[1] and box[2] < box[3]):
        raise fail("figures.box", box, "must be (x0, x1, y0, y1) with x0 < x1 and y0 < y1")
    _validate_combinations(config)
    _validate_pair(config)
    _validate_phases(config)


def _validate_combinations(config: ConfigDict) -> None:
    objective, model, optim = config.objective, config.model, config.optim

    for name in ("reconstruction", *PENALTIES):
        penalty = objective[name]
        if penalty.weight < 0:
            raise fail(f"objective.{name}.weight", penalty.weight, "must be at least 0")
        if penalty.begin < 0:
            raise fail(f"objective.{name}.begin", penalty.begin, "must be at least 0")
        if penalty.schedule != "constant" and penalty.steps < 1:
            raise fail(
                f"objective.{name}.steps", penalty.steps, f"must be at least 1 for a {penalty.schedule} schedule"
            )
    if model.bottleneck.name == "gaussian":
        if objective.likelihood == "squared_error":
            raise fail(
                "objective.likelihood",
                "squared_error",
                "is not a density, so it has no ELBO; a gaussian bottleneck takes gaussian or bernoulli",
            )
        if model.code_activation != "identity":
            raise fail("model.code_activation", model.code_activation, "must be identity for a gaussian bottleneck")
    if objective.kl_sparse.weight:
        used = {"model.code_activation": model.code_activation}
        if objective.kl_sparse.layers == "encoder" and model.encoder.widths:
            used["model.encoder.activation"] = model.encoder.activation
        for field, name in used.items():
            if name not in ("sigmoid", "tanh"):
                raise fail(field, name, "must be sigmoid or tanh, bounded by 1, for objective.kl_sparse")
    for name in ("contractive", "contractive_hessian"):
        if objective[name].weight and objective[name].method == "closed_form" and not one_layer(config):
            raise fail(f"objective.{name}.method", "closed_form", "needs an mlp with model.encoder.widths = ()")
    if model.bottleneck.name == "topk":
        for field in ("k", "begin", "test"):
            if model.bottleneck.topk[field] > model.bottleneck.size:
                allowed = f"must be at most the {model.bottleneck.size} units of the code"
                raise fail(f"model.bottleneck.topk.{field}", model.bottleneck.topk[field], allowed)
    if objective.auxk.weight and (
        model.bottleneck.name != "topk" or objective.likelihood not in ("squared_error", "gaussian")
    ):
        allowed = "needs model.bottleneck.name = 'topk' and the likelihood squared_error or gaussian"
        raise fail("objective.auxk.weight", objective.auxk.weight, allowed)
    if objective.learn_sigma and objective.likelihood != "gaussian":
        raise fail("objective.learn_sigma", True, "needs objective.likelihood = 'gaussian'")
    if config.train.batch_size % optim.accumulate:
        raise fail(
            "optim.accumulate", optim.accumulate, f"must divide config.train.batch_size = {config.train.batch_size}"
        )
    if optim.weight_decay and optim.name not in ("adamw", "lion", "lamb"):
        raise fail("optim.weight_decay", optim.weight_decay, "needs optim.name = adamw, lion or lamb")
    if model.decoder.tied:
        mirror = tuple(model.encoder.widths)[::-1]
        if model.decoder.widths is not None and tuple(model.decoder.widths) != mirror:
            raise fail("model.decoder.widths", model.decoder.widths, f"must be {mirror} (or null) for tied weights")
        if model.bottleneck.name == "gaussian":
            raise fail("model.decoder.tied", True, "needs a bottleneck that is not gaussian")
    if model.name == "conv":
        _validate_conv(model)
    elif model.bottleneck.size < 1:
        raise fail("model.bottleneck.size", model.bottleneck.size, f"must be at least 1 for model.name = {model.name}")


def _validate_conv(model: ConfigDict) -> None:
    conv = model.conv
    if not conv.channels:
        raise fail("model.conv.channels", (), "must name at least one block")
    if conv.upsample == "unpool" and conv.downsample != "max":
        raise fail(
            "model.conv.upsample",
            "unpool",
            "needs the switches of model.conv.downsample = 'max'; "
            f"with {conv.downsample!r} take 'repeat' or 'transpose'",
        )
    strided = conv.downsample == "stride" or conv.upsample == "transpose"
    if strided and conv.kernel_size < conv.factor:
        raise fail(
            "model.conv.kernel_size",
            conv.kernel_size,
            f"must be at least model.conv.factor = {conv.factor}: a stride beyond the kernel leaves pixels out",
        )
    if model.bottleneck.size == 0:
        if model.bottleneck.name != "identity":
            raise fail(
                "model.bottleneck.size", 0, f"must be at least 1 for model.bottleneck.name = {model.bottleneck.name}"
            )
        for part in ("encoder", "decoder"):
            if model[part].widths:
                raise fail(
                    f"model.{part}.widths",
                    model[part].widths,
                    "must be () where the last map is the code (model.bottleneck.size = 0)",
                )
    if model.decoder.tied:
        if (conv.downsample == "stride") != (conv.upsample == "transpose"):
            raise fail(
                "model.decoder.tied",
                True,
                f"cannot share kernels between downsample = {conv.downsample!r} and upsample = {conv.upsample!r}; "
                "take stride and transpose, max and unpool or repeat, average and repeat",
            )
        if conv.output_layer:
            raise fail("model.conv.output_layer", True, "has no counterpart in the encoder to be tied to")


def _validate_pair(config: ConfigDict) -> None:
    """The fields of the pair in use, and what the model must be for it."""

    name, bottleneck = config.pair.name, config.model.bottleneck
    fields = config.pair[name]
    if name in ("denoise", "inpaint") and fields.alpha == fields.beta == 0:
        raise fail(f"pair.{name}.beta", 0.0, "must be above 0 where alpha is 0")
    if name == "denoise":
        if fields.corruption != "gaussian" and fields.level > 1:
            raise fail("pair.denoise.level", fields.level, f"must lie in [0, 1] for {fields.corruption}")
        if fields.corruption == "gaussian" and not fields.alpha == fields.beta == 1:
            raise fail("pair.denoise.corruption", "gaussian", "corrupts every entry: alpha and beta must be 1")
    if name == "inpaint" and fields.mask == "quadrants":
        visible = tuple(fields.visible)
        if not 1 <= len(set(visible)) == len(visible) <= 3 or not set(visible) <= set(pairs.QUADRANTS):
            raise fail("pair.inpaint.visible", visible, f"must be one to three of {', '.join(pairs.QUADRANTS)}")
    if name == "inpaint" and fields.conditional:
        if bottleneck.name != "gaussian":
            raise fail("pair.inpaint.conditional", True, "needs model.bottleneck.name = gaussian")
    elif bottleneck.gaussian.prior_widths:
        raise fail(
            "model.bottleneck.gaussian.prior_widths",
            tuple(bottleneck.gaussian.prior_widths),
            "must be () unless pair.name = inpaint and pair.inpaint.conditional = True",
        )


def _validate_phases(config: ConfigDict) -> None:
    """Pretraining, the start, and what is trained last."""
    finetune, pretrain, model, objective = config.finetune, config.pretrain, config.model, config.objective
    supervised = config.pair.name == "label" or finetune.name == "classifier"
    if config.pair.name == "label" and objective.likelihood != "categorical" and finetune.name != "classifier":
        raise fail("objective.likelihood", objective.likelihood, "must be categorical for config.pair.name = 'label'")
    if finetune.patience and not config.data.validation_fraction:
        raise fail("finetune.patience", finetune.patience, "needs config.data.validation_fraction > 0")
    if finetune.freeze and not (supervised and (config.init_from or pretrain.widths)):
        raise fail("finetune.freeze", True, "needs config.finetune.name = 'classifier' and a pretrained encoder")
    sizes = tuple(config.data.labeled_examples)
    if sizes:
        if len(set(sizes)) < len(sizes):
            raise fail("data.labeled_examples", sizes, "must differ from one another")
        if not supervised:
            raise fail("data.labeled_examples", config.data.labeled_examples, "needs finetune.name = 'classifier'")
        grid = config.few_labels
        for field, accept, allowed in (
            ("learning_rates", lambda v: type(v) is float and v > 0, "floats greater than 0"),
            ("dropouts", lambda v: type(v) is float and 0 <= v < 1, "floats in [0, 1)"),
            ("freezes", lambda v: type(v) is bool, "True or False"),
        ):
            if not grid[field] or not all(map(accept, grid[field])):
                raise fail(f"few_labels.{field}", tuple(grid[field]), f"must be a tuple of {allowed}")
    if objective.contrastive_divergence.weight:
        if not (one_layer(config) and model.decoder.tied and model.code_activation in ("sigmoid", "identity")):
            raise fail(
                "objective.contrastive_divergence.weight",
                objective.contrastive_divergence.weight,
                "needs one tied layer of sigmoid or identity units",
            )
        if config.pair.name != "reconstruct" or model.bottleneck.name != "identity":
            raise fail("pair.name", config.pair.name, "must be reconstruct, with model.bottleneck.name = 'identity', "
                       "for objective.contrastive_divergence")  # fmt: skip
    if not pretrain.widths:
        return
    if config.pair.input != "identity":
        raise fail("pair.input", config.pair.input, "must be identity where config.pretrain.widths gives stages")
    count = stage_sections(pretrain)
    if len(pretrain.widths) > count:
        raise fail("pretrain.widths", pretrain.widths, f"must have at most the {count} stages of the config file, "
                   f"which stages(config, {len(pretrain.widths)}) there would make")  # fmt: skip
    if config.data.binarize == "static":
        raise fail("data.binarize", "static", "must be none or dynamic where config.pretrain.widths gives stages")
    if config.init_from:
        raise fail("init_from", config.init_from, "must be empty where config.pretrain.widths gives the start")
    if model.name != "mlp" or model.bottleneck.name != "identity" or model.encoder.norm != "none":
        raise fail("pretrain.widths", pretrain.widths, "needs model.name = 'mlp', model.bottleneck.name = 'identity' "
                   "and model.encoder.norm = 'none'")  # fmt: skip
    for k in range(len(pretrain.widths)):
        last, own = k == len(pretrain.widths) - 1, pretrain[f"stage_{k}"]
        field = "code_activation" if last else "encoder.activation"
        if own.code_activation != get(model, field):
            allowed = f"must be that of the whole encoder there, config.model.{field} = {get(model, field)!r}"
            raise fail(f"pretrain.stage_{k}.code_activation", own.code_activation, allowed)
        if own.pair.name not in ("reconstruct", "denoise"):
            raise fail(f"pretrain.stage_{k}.pair.name", own.pair.name, "must be reconstruct or denoise")
    if finetune.name != "classifier":
        _validate_unrolled(config)


def _validate_unrolled(config: ConfigDict) -> None:
    """Whether the stages' decoders are the layers of the whole one."""
    pretrain, decoder = config.pretrain, config.model.decoder
    mirror = tuple(pretrain.widths)[-2::-1]
    if decoder.widths is not None and tuple(decoder.widths) != mirror:
        raise fail("model.decoder.widths", decoder.widths, f"must be {mirror} (or null): the stages' decoders")
    if decoder.norm != "none":
        raise fail("model.decoder.norm", decoder.norm, "must be none where config.pretrain.widths gives stages")
    for k in range(len(pretrain.widths)):
        likelihood = pretrain[f"stage_{k}"].objective.likelihood
        field, of_logits = ("model.decoder.activation", "sigmoid") if k else ("objective.likelihood", "bernoulli")
        after = get(config, field)
        if (likelihood == "bernoulli") != (after == of_logits):
            allowed = f"must {'' if after == of_logits else 'not '}be bernoulli where config.{field} = {after!r}"
            raise fail(f"pretrain.stage_{k}.objective.likelihood", likelihood, allowed)


def validate_shapes(config: ConfigDict, spec: Spec) -> None:
    """Check the config against the data (a `dataset.Spec`); raises InputError with one line."""
    if len(spec.classes) < 2:
        for field, asked in (
            ("evaluate.probe", config.evaluate.probe),
            ("evaluate.retrieval", config.evaluate.retrieval),
            ("pair.name", config.pair.name == "label"),
        ):
            if asked:
                field = "finetune.name" if field == "pair.name" and config.finetune.name == "classifier" else field
                raise fail(field, get(config, field), "needs labels of at least 2 classes (a table: data.label_column)")
    if config.model.name == "conv":
        _validate_maps(config.model.conv, spec)
    batch = config.train.batch_size
    if batch > spec.train:
        raise fail("train.batch_size", batch, f"must be at most the {spec.train} training examples")
    steps = config.train.epochs * (spec.train // batch)
    if config.optim.warmup_steps > steps > 0 and not config.data.labeled_examples:
        raise fail("optim.warmup_steps", config.optim.warmup_steps, f"must be at most the {steps} steps that are taken")
    _validate_table(config, spec)
    if config.data.binarize != "none" and spec.kind != "image":
        raise fail("data.binarize", config.data.binarize, f"must be none for a {spec.kind}")
    _validate_pair_shapes(config, spec)
    if config.objective.contrastive_divergence.weight and not (0 <= spec.low <= spec.high <= 1):
        raise fail(
            "objective.contrastive_divergence.weight",
            config.objective.contrastive_divergence.weight,
            f"needs examples in [0, 1], found {spec.low:g} to {spec.high:g}",
        )


def _validate_table(config: ConfigDict, spec: Spec) -> None:
    """What the likelihood and the input's transform ask of the values."""
    supervised = config.pair.name == "label" or config.finetune.name == "classifier"
    likelihood, given = config.objective.likelihood, config.pair.input
    size = (spec.train + spec.validation + spec.test) * math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
    if spec.sparse and size > MOST:
        allowed = f"sparse, and dense on the device {size / 2**30:.1f} GiB, more than {MOST / 2**30:.0f}"
        raise fail("data.source", config.data.source, f"{allowed}; take fewer columns or rows (text: data.vocabulary)")
    if spec.kind == "image":
        if likelihood == "categorical" and not supervised:
            raise fail("objective.likelihood", likelihood, "needs pair label, or counts, and the data are images")
        if given != "identity":
            raise fail("pair.input", given, "must be identity for images")
        return
    asked = []
    if likelihood == "bernoulli" or (likelihood == "categorical" and not supervised):
        gaussian = config.model.bottleneck.name == "gaussian"
        asked.append(("objective.likelihood", likelihood, f"; take gaussian{'' if gaussian else ' or squared_error'}"))
    if given != "identity":
        asked.append(("pair.input", given, "; take identity"))
    for field, value, instead in asked:
        most, wanted = (1.0, "targets in [0, 1]") if value == "bernoulli" else (math.inf, "counts, 0 or more")
        if spec.mean:
            raise fail(
                field,
                value,
                f"needs {wanted}, and this table is standardised{instead}, or data.standardize=False where its own "
                "numbers are such",
            )
        if not 0 <= spec.low <= spec.high <= most:
            raise fail(field, value, f"needs {wanted}, found {spec.low:g} to {spec.high:g}")


def _validate_maps(conv: ConfigDict, spec: Spec) -> None:

    if spec.kind != "image":
        raise fail("model.name", "conv", f"needs images, and the examples are a {spec.kind} of shape {spec.shape}")
    maps = sizes(spec.shape, len(conv.channels), conv.factor)
    if conv.factor > 1 and (1, 1) in maps[:-1]:
        height, width = spec.shape[:2]
        raise fail(
            "model.conv.channels",
            conv.channels,
            f"must have at most {maps.index((1, 1))} blocks: after them a {height} x {width} image is 1 x 1",
        )


def _validate_pair_shapes(config: ConfigDict, spec: Spec) -> None:

    name, denoise = config.pair.name, config.pair.denoise
    if spec.kind != "image":
        if name in ("inpaint", "colorize"):
            raise fail("pair.name", name, f"needs images, and the data are a {spec.kind}")
        if name == "denoise" and denoise.corruption == "salt_and_pepper":
            raise fail("pair.denoise.corruption", "salt_and_pepper", f"needs images, and the data are a {spec.kind}")
        if name == "denoise" and denoise.clip:
            raise fail("pair.denoise.clip", True, f"needs data in [0, 1], and the data are a {spec.kind}")
    elif name == "colorize" and spec.shape[-1] != 3:
        raise fail("pair.name", name, f"needs images of 3 channels, and these have {spec.shape[-1]}")
    shapes = pairs.build(config.pair, len(spec.classes)).shapes(spec.shape)
    if config.model.decoder.tied and math.prod(shapes.input.shape) != math.prod(shapes.target.shape):
        raise fail(
            "model.decoder.tied",
            True,
            f"needs input and target of one size, and pair {name} gives {shapes.input.shape[1:]} "
            f"and {shapes.target.shape[1:]}",
        )


WIDTHS = (
    "model.encoder.widths",
    "model.decoder.widths",
    "model.conv.channels",
    "model.bottleneck.gaussian.prior_widths",
    "pretrain.widths",
    "data.labeled_examples",
)

# Numbers: what is allowed, and the fields that it is asked of.
RANGES: list[tuple[str, Callable[[float], bool], list[str]]] = [
    (
        "must be at least 1",
        lambda v: v >= 1,
        [
            "train.epochs",
            "train.batch_size",
            "train.eval_batch_size",
            "train.log_steps",
            "optim.accumulate",
            "checkpoint.every_steps",
            "checkpoint.max_to_keep",
            "data.label_draws",
            "objective.contrastive_divergence.gibbs",
            "objective.auxk.k",
            "objective.contractive_hessian.samples",
            "model.bottleneck.topk.k",
            "model.bottleneck.topk.begin",
            "model.bottleneck.topk.test",
            "figures.examples",
            "model.conv.kernel_size",
            "data.vocabulary",
        ],
    ),
    ("must be at least 2", lambda v: v >= 2, ["figures.grid", "few_labels.folds"]),
    (
        "must be greater than 0",
        lambda v: v > 0,
        ["optim.learning_rate", "objective.sigma", "objective.contractive_hessian.sigma"],
    ),
    (
        "must be at least 0",
        lambda v: v >= 0,
        [
            "train.eval_epochs",
            "train.profile_steps",
            "mesh.threads",
            "optim.warmup_steps",
            "optim.clip",
            "optim.weight_decay",
            "model.bottleneck.topk.steps",
            "objective.contractive.chunk",
            "objective.contractive_hessian.chunk",
            "model.bottleneck.size",
            "objective.kl.free_bits",
            "finetune.patience",
            "pair.denoise.level",
            "pair.denoise.alpha",
            "pair.denoise.beta",
            "pair.inpaint.alpha",
            "pair.inpaint.beta",
        ],
    ),
    (
        "must lie in [0, 1)",
        lambda v: 0 <= v < 1,
        ["data.validation_fraction", "model.encoder.dropout", "model.decoder.dropout", "optim.ema", "optim.momentum"],
    ),
    ("must lie between 0 and 1", lambda v: 0 < v < 1, ["data.test_fraction", "objective.kl_sparse.rho"]),
    ("must lie in [0, 1]", lambda v: 0 <= v <= 1, ["optim.final_fraction", "pair.inpaint.level"]),
    ("must lie in (0, 1]", lambda v: 0 < v <= 1, ["pair.inpaint.size", "finetune.layer_decay", "data.max_df"]),
    ("must lie in [1, 16]", lambda v: 1 <= v <= 16, ["model.conv.factor"]),  # a switch is one byte
    ("must lie in [0, 2**32)", lambda v: 0 <= v < 2**32, ["seed"]),
    ("must lie in [0, 2**32 - 1)", lambda v: 0 <= v < 2**32 - 1, ["data.split_seed"]),
    ("must be -1 (the rest) or at least 1", lambda v: v == -1 or v >= 1, ["mesh.data", "mesh.model"]),
]


def choices() -> dict[str, tuple[str, ...]]:
    """Field -> the names it may hold, each list owned by the module that resolves the name."""

    return {
        "data.resident": ("auto", "true", "false"),
        "data.binarize": ("none", "dynamic", "static"),
        "data.text": bags.WEIGHTINGS,
        "pair.name": tuple(pairs.PAIRS),
        "pair.input": tuple(pairs.INPUTS),
        "pair.denoise.corruption": tuple(pairs.CORRUPTIONS),
        "pair.inpaint.mask": tuple(pairs.MASKS),
        "pair.inpaint.side": (*pairs.SIDES, "random"),
        "pair.colorize.grey": tuple(pairs.GREYS),
        "model.name": tuple(models.FAMILIES),
        "model.encoder.activation": tuple(models.ACTIVATIONS),
        "model.decoder.activation": tuple(models.ACTIVATIONS),
        "model.code_activation": tuple(models.ACTIVATIONS),
        "model.encoder.norm": models.NORMS,
        "model.decoder.norm": models.NORMS,
        "model.encoder.kernel_init": tuple(models.INITS),
        "model.decoder.kernel_init": tuple(models.INITS),
        "model.conv.downsample": conv.DOWNSAMPLES,
        "model.conv.upsample": conv.UPSAMPLES,
        "model.bottleneck.name": tuple(models.BOTTLENECKS),
        "model.dtype": ("float32", "bfloat16"),
        "objective.likelihood": tuple(likelihoods.LIKELIHOODS),
        "optim.name": tuple(optim.OPTIMIZERS),
        "optim.schedule": tuple(optim.SCHEDULES),
        "objective.l1.layers": penalties.LAYERS,
        "objective.kl_sparse.layers": penalties.LAYERS,
        "objective.contractive.method": penalties.JACOBIANS,
        "objective.contractive_hessian.method": penalties.JACOBIANS,
        "finetune.name": ("autoencoder", "classifier", "none"),
        **{f"objective.{name}.schedule": tuple(SCHEDULES) for name in ("reconstruction", *PENALTIES)},
    }
