"""What is trained in turn: the config of each stage of pretraining, and of what is trained last."""

from typing import Any

from ml_collections import ConfigDict

from aejax.config import default


def resolve(config: ConfigDict) -> ConfigDict:
    """The config with what `pretrain` and `finetune` imply for the model that is trained last."""
    config = ConfigDict(config).copy_and_resolve_references()
    model, widths = config.model, tuple(config.pretrain.widths)
    if widths:
        model.encoder.widths, model.bottleneck.size = widths[:-1], widths[-1]
    if config.finetune.name == "classifier":
        config.pair.name, config.objective.likelihood = "label", "categorical"
        config.objective.kl.weight = 0.0  # the code is the mean, see `Objective.terms`
        model.decoder.widths, model.decoder.tied = (), False
    return config.lock()


def stage(config: ConfigDict, k: int) -> ConfigDict:
    """The config of stage k: an autoencoder of one layer on the codes below it."""
    config = ConfigDict(config).copy_and_resolve_references()
    own, widths, whole, base = config.pretrain[f"stage_{k}"], config.pretrain.widths, config.model, default()
    # What is trained last has no part in a stage, nor in its digest.
    for section in ("model", "finetune", "pretrain", "few_labels", "evaluate"):
        config[section] = base[section]
    config.name, config.init_from = f"stage_{k}", ""
    config.data.labeled_examples, config.data.label_draws = base.data.labeled_examples, base.data.label_draws
    config.pair, config.objective, config.optim = own.pair, own.objective, own.optim
    config.train.epochs, config.train.batch_size = own.epochs, own.batch_size
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
    own = field.partition(".")[0] in ("pair", "objective", "optim")
    return f"pretrain.stage_{k}.{moved.get(field, field)}" if own or field in moved else field


def first_stage(field: str, before: Any, now: Any, count: int) -> int:
    """The first stage of pretraining whose numbers a field of the config determines; `count`: what is trained last."""
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
