"""Fields that vary within a population, and the values that a text names for them."""

import ast
from typing import Any

from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax.errors import InputError, did_you_mean
from aejax.fields import Declared

FIXED = ("data.source", "data.resident", "population", "mesh", "checkpoint", "figures", "uses", "name", "init_from",
         "init_from_parts", "pretrain", "finetune", "few_labels", "evaluate", "train.progress",
         "train.profile_steps")  # fmt: skip


def varied(config: ConfigDict, flag: str, text: str) -> tuple[str, str, Declared]:
    """The field of a text FIELD=VALUES of `--flag`, the text of its values, and its declaration; raises InputError."""
    field, _, values = text.partition("=")
    field, values = field.strip().removeprefix("config."), values.strip()
    declared, known = config_lib.about(field), config_lib.flatten(config.to_dict())
    if field not in known or declared is None:
        raise InputError(f"--{flag}={text}: config.{field}: no such field{did_you_mean(field, list(known), 'config.')}")
    if field == "seed":
        own = values if flag == "sweep" and values else "N"
        raise InputError(f"--{flag}={text}: the seeds are --config.population.seeds={own}")
    if any(field == fixed or field.startswith(f"{fixed}.") for fixed in FIXED):
        raise InputError(
            f"--{flag}={text}: config.{field} cannot vary within a population, whose members share source, uses and "
            f"pages; fields of data, model, objective, pair, method, optim and train can. Start a run for each value"
        )
    return field, values, declared


def choice(config: ConfigDict, flag: str, text: str) -> tuple[str, list[Any]]:
    """The field and the values of a text such as objective.kl.weight=0.5,1,2 of `--flag`; raises InputError."""
    field, values, declared = varied(config, flag, text)
    try:
        if isinstance(config_lib.flatten(config.to_dict())[field], list):
            parsed = [tuple(v) if isinstance(v, list | tuple) else (v,) for v in ast.literal_eval(f"[{values}]")]
        else:
            parsed = [declared.parse(f"--{flag}={field}", value.strip()) for value in values.split(",")]
    except (ValueError, SyntaxError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"--{flag}={text}: must be FIELD=VALUE,VALUE,..., tuples in parentheses") from error
    if len(set(parsed)) < max(len(parsed), 2):
        raise InputError(
            f"--{flag}={text}: needs at least two values that differ; one value is --config.{field}={values}"
        )
    for value in parsed:
        for wrong in declared.check(field, value):
            raise wrong
    return field, parsed
