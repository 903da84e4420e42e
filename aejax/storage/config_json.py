"""The text of config.json, of this version and of earlier ones."""

import json
from typing import Any

from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax.errors import InputError

FORMAT = 2  # incremented when older code cannot read it


def to_json(config: ConfigDict) -> str:
    """The text of config.json."""
    return json.dumps({"format": FORMAT, **config.to_dict()}, indent=2)


def from_json(text: str) -> ConfigDict:
    """The config of a run directory; a field that it lacks (an older run) takes its default."""
    stored = json.loads(text)
    found = stored.pop("format", None)
    if found not in (1, FORMAT):
        raise InputError(f"config.json: format must be {FORMAT}")
    fields = _from_format_1(config_lib.flatten(stored)) if found == 1 else config_lib.flatten(stored)
    config = config_lib.default_like(stored)
    known = config_lib.flatten(config.to_dict())
    for path, value in fields.items():
        if path not in known:
            raise InputError(f"config.json: unknown field {path}")
        try:
            config_lib.set_field(config, path, value)
        except (TypeError, ValueError) as error:
            raise InputError(f"config.json: {path} = {value!r}: {' '.join(str(error).split())}") from error
    return config_lib.move_renamed(config).lock()


def _from_format_1(stored: dict[str, Any]) -> dict[str, Any]:
    """Contrastive divergence was a penalty; now it is a method."""
    moved = {path: value for path, value in stored.items() if "objective.contrastive_divergence." not in path}
    for path, value in stored.items():
        before, penalty, field = path.partition("objective.contrastive_divergence.")
        if penalty and field == "gibbs":
            moved[f"{before}method.contrastive.gibbs"] = value
        if penalty and field == "weight" and value:
            moved[f"{before}method.name"] = "contrastive"
    return moved
