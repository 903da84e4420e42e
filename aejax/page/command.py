"""The command, or the Python code, that gives a config."""

import math
import shlex
from typing import Any

from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax.data import sources
from aejax.training import plan

FLAGS = {"population.sweep": "sweep", "population.ranges": "range"}


def reproduce(config: ConfigDict) -> str | None:
    """The shortest command that gives this config: a shipped config and flags; None if there is none.

    For a run on an array in memory it is Python code.
    """
    if config.data.source == sources.ARRAY:
        return _python(config)
    config, options, fewest = plan.implied(config), [], math.inf
    for file in sorted(config_lib.SHIPPED.glob("*.py"), key=lambda file: (file.stem != config.name, file)):
        base = config_lib.shipped(file, config.data.source)
        if "default" in base.pretrain:
            config_lib.add_stages(base, len(config.pretrain.widths))
        if config_lib.stage_sections(base.pretrain) != config_lib.stage_sections(config.pretrain):
            continue  # only the flag of the widths adds or removes sections
        changes: dict[str, Any] = {}
        # A field may follow another one that is changed first.
        while len(changes) <= fewest and (left := config_lib.difference(config, plan.implied(base))):
            changes |= left
            for name, value in left.items():
                config_lib.set_field(base, name, value)
        if None not in changes.values() and len(changes) <= fewest:
            fewest = len(changes)
            options.append((len(changes), file.stem != config.name, file.stem, changes))
    if not options:
        return None
    _, _, stem, changes = min(options, key=lambda option: option[:3])
    words = [f"--config={stem}:{config.data.source}"]
    for name, value in changes.items():
        if name in FLAGS:  # texts with commas, which the config's own flags would split
            words += [f"--{FLAGS[name]}={text}" for text in value]
        else:
            words.append(f"--config.{name}={tuple(value) if isinstance(value, list) else value}")
    return " ".join(["python -m aejax.main", *map(shlex.quote, words)])


def _python(config: ConfigDict) -> str:
    """The code that trains such a run on an array x."""
    usual = config_lib.flatten(plan.implied(config_lib.default(sources.ARRAY)).to_dict())
    changes = {name: v for name, v in config_lib.flatten(config.to_dict()).items() if usual.get(name) != v}
    lines = ["import aejax", "from aejax.config import default", "", "config = default()"]
    lines += [f"config.{name} = {tuple(v) if isinstance(v, list) else v!r}" for name, v in changes.items()]
    return "\n".join([*lines, "model = aejax.fit(x, config)"])
