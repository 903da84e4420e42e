"""Comparisons: the command is run in turn in new processes, with the flags of each compared program."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from aejax.benchmark.table import Result, spread
from aejax.errors import InputError

# What aejax is compared with: names, and the flags that measure them.
PEERS = {
    "torch": {
        "torch_eager": ["--peer=torch_eager", "--config.data.resident=true"],
        "torch_compile": ["--peer=torch_compile", "--config.data.resident=true"],
    },
    "pythae": {"pythae": ["--peer=pythae", "--config.data.resident=true"]},
    "streaming": {"streaming": ["--peer=", "--config.data.resident=false"]},
}


def versus(peers: Mapping[str, Sequence[str]], alternations: int) -> Result:
    """aejax and each peer in turn; ratios of their times per step, above 1 if aejax is faster."""
    processes = {"aejax": ["--peer=", "--config.data.resident=true"], **peers}
    runs: dict[str, list[Result]] = {name: [] for name in processes}
    for _ in range(alternations):
        for name, done in runs.items():
            done.append(process(["--nolimits", *processes[name]]))
            own, other = runs["aejax"][0]["devices"][0], done[0]["devices"][0]
            if (own == "cpu") != (other == "cpu"):
                raise InputError(f"{' '.join(processes[name])}: trains on {other}, aejax on {own}")
    result: Result = {"devices": runs["aejax"][0]["devices"]}
    for name, done in runs.items():
        result |= spread(f"{name}_ms_per_step", [run["ms_per_step"] for run in done])
    for name in peers:
        pairs = zip(runs[name], runs["aejax"], strict=True)
        result |= spread(f"ratio_vs_{name}", [peer["ms_per_step"] / own["ms_per_step"] for peer, own in pairs])
    return result


def scaling(counts: Sequence[int], alternations: int) -> Result:
    """The same global batch on each number of devices, in turn."""
    runs: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(alternations):
        for count, done in runs.items():
            arguments = ["--nolimits", f"--config.mesh.data={count}"]
            done.append(process(arguments, JAX_NUM_CPU_DEVICES=str(count))["examples_per_second"])
    result: Result = {}
    for count, done in runs.items():
        result |= spread(f"examples_per_second_on_{count}", done)
        pairs = zip(done, runs[counts[0]], strict=True)
        result |= spread(f"speedup_on_{count}", [rate / first for rate, first in pairs])
    return result


def process(arguments: Sequence[str], **environment: str) -> Result:
    """Run this command with further flags in a new process; raises InputError with its message."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        own = ["--vs=", "--devices=", f"--json={file}", *arguments]
        command = [sys.executable, "-m", "aejax.benchmark", *sys.argv[1:], *own]
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise InputError(f"{' '.join(arguments)}: {lines[-1].removeprefix('aejax: ')}")
        result: Result = json.loads(file.read_text())
        return result
