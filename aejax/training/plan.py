"""The training plan: the config of each stage of pretraining, and that of the final model."""

import copy
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax import pairs
from aejax.config import RENAMED, STAGED, add_stages, default, get, stage_sections
from aejax.errors import FieldError, raise_all


def resolve(config: ConfigDict) -> ConfigDict:
    """The checked config, with what `pretrain` and `finetune` imply for the final model.

    Raises InputError with all problems in one line.
    """
    config_lib.check_fields(config)
    config = _with_stages(config)
    config_lib.check(config)
    raise_all(check(config))
    for old, (field, value) in RENAMED.items():
        if "evaluate" in config and get(config, old):
            print(f"config.{old} has a new name: config.{field}, here {value}")
    resolved = implied(config)
    config_lib.check(resolved)
    return resolved


def implied(config: ConfigDict) -> ConfigDict:
    """The config with what `pretrain` and `finetune` imply, without a check."""
    config = config_lib.move_renamed(_with_stages(config))
    model, widths = config.model, tuple(config.pretrain.widths)
    if widths:
        model.encoder.widths, model.bottleneck.size = widths[:-1], widths[-1]
    if config.finetune.name == "classifier":
        config.pair.name, config.objective.likelihood = "label", "categorical"
        config.objective.kl.weight = 0.0  # the code is the mean, see `Objective.terms`
        model.decoder.widths, model.decoder.tied = (), False
    return config.lock()


def _with_stages(config: ConfigDict) -> ConfigDict:
    """The config, or a copy if sections of stages are missing: with a section for every stage, if it has stages."""
    if "default" in config.pretrain and stage_sections(config.pretrain) < len(config.pretrain.widths):
        config = copy.deepcopy(config)  # ConfigDict(config) would share the sections
        add_stages(config, len(config.pretrain.widths))
    return config


def stage(config: ConfigDict, k: int) -> ConfigDict:
    """The config of stage k: an autoencoder of one layer on the codes below it."""
    config = ConfigDict(config).copy_and_resolve_references()
    own, widths, whole, base = config.pretrain[f"stage_{k}"], config.pretrain.widths, config.model, default()
    # The final model affects neither a stage nor its digest.
    for section in ("model", "finetune", "pretrain", "few_labels", "uses"):
        config[section] = base[section]
    config.name, config.init_from = f"stage_{k}", ""
    config.data.labeled_examples, config.data.label_draws = base.data.labeled_examples, base.data.label_draws
    for section in STAGED:
        config[section] = own[section]
    config.train.epochs, config.train.batch_size = own.epochs, own.batch_size
    config.train.steps, config.train.log_units = base.train.steps, base.train.log_units
    model = config.model
    model.dtype, model.encoder.kernel_init = whole.dtype, whole.encoder.kernel_init
    model.code_activation, model.decoder.tied = own.code_activation, own.tied
    model.encoder.widths, model.bottleneck.size = (), widths[k]
    if k:
        config.data.binarize, config.data.standardize = "none", False
    return config.lock()


def origin(field: str, k: int) -> str:
    """The field of the whole config that gives stage k this one."""
    moved = {
        "train.epochs": "epochs",
        "train.batch_size": "batch_size",
        "model.code_activation": "code_activation",
        "model.decoder.tied": "tied",
    }
    if field == "model.bottleneck.size":
        return "pretrain.widths"
    own = field.partition(".")[0] in STAGED
    return f"pretrain.stage_{k}.{moved.get(field, field)}" if own or field in moved else field


def first_stage(field: str, before: Any, now: Any, count: int) -> int:
    """The first stage whose numbers depend on a field of the config; `count` stands for the final model."""
    part, _, rest = field.partition(".")
    if part == "pretrain":
        if rest == "widths":
            pairs = enumerate(zip(before, now, strict=False))
            return next((k for k, (a, b) in pairs if a != b), min(len(before), len(now)))
        name = rest.partition(".")[0]
        return count if name == "default" else min(count, int(name.removeprefix("stage_")))
    shared = (
        "model.dtype",
        "model.encoder.kernel_init",
        "train.eval_epochs",
        "train.eval_batch_size",
        "train.log_steps",
    )
    labels = field in ("data.labeled_examples", "data.label_draws")
    return 0 if (part in ("data", "seed") and not labels) or field in shared else count


def check(config: ConfigDict) -> Iterator[FieldError]:
    """Errors of pretraining, the start, and the final training together."""
    finetune, pretrain = config.finetune, config.pretrain
    supervised = pairs.pair(config.pair).supervised or finetune.name == "classifier"
    if finetune.patience and not config.data.validation_fraction:
        yield FieldError("finetune.patience", finetune.patience, "needs config.data.validation_fraction > 0")
    if finetune.freeze and not (supervised and (config.init_from or pretrain.widths)):
        yield FieldError("finetune.freeze", True, "needs config.finetune.name = 'classifier' and a pretrained encoder")
    if config.model.decoder.bias_init != "zeros" and (supervised or pretrain.widths):
        instead = "the model gives labels" if supervised else "config.pretrain.widths gives the start"
        yield FieldError("model.decoder.bias_init", config.model.decoder.bias_init, f"must be zeros where {instead}")
    sizes = tuple(config.data.labeled_examples)
    if len(set(sizes)) < len(sizes):
        yield FieldError("data.labeled_examples", sizes, "must differ from one another")
    if sizes and not supervised:
        yield FieldError("data.labeled_examples", sizes, "needs finetune.name = 'classifier'")
    for field in ("learning_rates", "dropouts", "freezes"):
        if sizes and not config.few_labels[field]:
            yield FieldError(f"few_labels.{field}", (), "must hold at least one value")
    if pretrain.widths:
        yield from _check_stages(config)


def _check_stages(config: ConfigDict) -> Iterator[FieldError]:
    finetune, pretrain, model = config.finetune, config.pretrain, config.model
    widths = tuple(pretrain.widths)
    if config.pair.input != "identity":
        yield FieldError("pair.input", config.pair.input, "must be identity where config.pretrain.widths gives stages")
    if "default" not in pretrain:
        allowed = (
            f"needs the section pretrain.default; add it in the config: aejax.config.stages(config, {len(widths)})"
        )
        yield FieldError("pretrain.widths", widths, allowed)
        return
    usual, implied_widths = tuple(default().model.encoder.widths), widths[:-1]
    if tuple(model.encoder.widths) not in (usual, implied_widths):
        allowed = f"must be {implied_widths} (or its default): config.pretrain.widths gives the layers"
        yield FieldError("model.encoder.widths", tuple(model.encoder.widths), allowed)
    if config.data.binarize == "static":
        allowed = "must be none or dynamic where config.pretrain.widths gives stages"
        yield FieldError("data.binarize", "static", allowed)
    if config.init_from:
        yield FieldError("init_from", config.init_from, "must be empty where config.pretrain.widths gives the start")
    if model.name != "mlp" or model.bottleneck.name != "identity" or model.encoder.norm != "none":
        allowed = "needs model.name = 'mlp', model.bottleneck.name = 'identity' and model.encoder.norm = 'none'"
        yield FieldError("pretrain.widths", widths, allowed)
    for k in range(len(widths)):
        last, own = k == len(widths) - 1, pretrain[f"stage_{k}"]
        field = "code_activation" if last else "encoder.activation"
        if own.code_activation != get(model, field):
            allowed = f"must be config.model.{field} = {get(model, field)!r}, as in the whole encoder"
            yield FieldError(f"pretrain.stage_{k}.code_activation", own.code_activation, allowed)
        if own.pair.name not in ("reconstruct", "denoise"):
            yield FieldError(f"pretrain.stage_{k}.pair.name", own.pair.name, "must be reconstruct or denoise")
    if finetune.name != "classifier":
        yield from _check_unrolled(config)


def _check_unrolled(config: ConfigDict) -> Iterator[FieldError]:
    """Whether the stages' decoders are the layers of the whole decoder."""
    pretrain, decoder = config.pretrain, config.model.decoder
    mirror = tuple(pretrain.widths)[-2::-1]
    if decoder.widths is not None and tuple(decoder.widths) != mirror:
        yield FieldError("model.decoder.widths", decoder.widths, f"must be {mirror} (or null) for the stages' decoders")
    if decoder.norm != "none":
        yield FieldError("model.decoder.norm", decoder.norm, "must be none where config.pretrain.widths gives stages")
    for k in range(len(pretrain.widths)):
        likelihood = pretrain[f"stage_{k}"].objective.likelihood
        field, of_logits = ("model.decoder.activation", "sigmoid") if k else ("objective.likelihood", "bernoulli")
        after = get(config, field)
        if (likelihood == "bernoulli") != (after == of_logits):
            allowed = f"must {'' if after == of_logits else 'not '}be bernoulli where config.{field} = {after!r}"
            yield FieldError(f"pretrain.stage_{k}.objective.likelihood", likelihood, allowed)
