"""The numbers of a measurement: a median with its quartiles, and a table of them."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Result = dict[str, Any]  # name of a number -> the number, a text, or the result of a part
# Name of a number -> its meaning, the factor from its unit to the unit shown, and that unit.
ROWS = {
    "compile_seconds": ("first dispatch, which compiles", 1, "s"),
    "ms_per_step": ("a step", 1, "ms"),
    "waiting_share": ("share of time waiting for data", 100, "%"),
    "operations_per_step": ("floating-point operations of a step", 1e-9, "G"),
    "operations_per_second": ("their rate", 1e-9, "G/s"),
    "best_product_operations_per_second": ("rate of the step's best matrix product, alone", 1e-9, "G/s"),
    "share_of_best_product": ("rate of the step, as a share of that", 100, "%"),
    "peak_operations_per_second": ("published peak rate of the GPU", 1e-9, "G/s"),
    "peak_arithmetic": ("arithmetic of that peak", 1, ""),
    "share_of_peak": ("products at that rate, as a share of a step", 100, "%"),
    "optimizer_bytes": ("moved by the optimiser in a step", 1e-6, "MB"),
    "bytes_per_second": ("memory bandwidth, measured", 1e-9, "GB/s"),
    "share_of_limit": ("limit by products and memory, share of a step", 100, "%"),
    "step_memory_bytes": ("memory of a step", 1e-6, "MB"),
}


def table(result: Mapping[str, Any]) -> str:
    """A line for each number, with its unit and its quartiles."""
    lines = []
    for name, value in result.items():
        if name.endswith("_quartiles"):
            continue
        if isinstance(value, dict):
            lines += [f"{name}:", table(value), ""]
            continue
        label, factor, unit = _row(name)
        text = str(value) if isinstance(value, str | list) else f"{_number(value * factor)} {unit}".rstrip()
        if f"{name}_quartiles" in result:
            low, high = (_number(factor * v) for v in result[f"{name}_quartiles"])
            text += f"  ({low} to {high})"
        lines.append(f"{label:<46}  {text}")
    return "\n".join(lines)


def spread(name: str, values: Sequence[float]) -> Result:
    """The median, and beside it the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else list(values) * 3
    return {name: middle, f"{name}_quartiles": [low, high]}


def _row(name: str) -> tuple[str, float, str]:
    said = name.removesuffix("_bytes").replace("_", " ")
    return ROWS.get(name) or ((said, 1e-6, "MB") if name.endswith("_bytes") else (said, 1, ""))


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
