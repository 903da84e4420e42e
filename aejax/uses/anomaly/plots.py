"""Plots of anomaly detection."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from aejax.plots import INK, ROWS, WIDTH, colour_map, image_rows, legend, short, subplots


def score_histogram(parts: Mapping[str, np.ndarray], threshold: float, about: str) -> Figure:
    """Scores by the name of their part, with the threshold."""
    figure, ax = subplots(figsize=(WIDTH, 3.0))
    low, high = np.percentile(np.concatenate(list(parts.values())), (0.5, 99.5))
    bins = np.linspace(low, max(high, threshold), 41)
    for name, values in parts.items():
        weights = np.full(len(values), 1 / max(len(values), 1))
        ax.hist(np.clip(values, bins[0], bins[-1]), bins, weights=weights, alpha=0.6, label=name or None)
    ax.axvline(threshold, color=INK, linewidth=1.2, linestyle="--", label="threshold")
    shares = "share of each kind" if len(parts) > 1 else "share of the test split"
    ax.set(xlabel="score; the outer bars hold the scores beyond", ylabel=shares)
    ax.set_title(textwrap.fill(f"threshold {threshold:.4g}: {about}", 60), fontsize="medium")
    legend(ax)
    return figure


def detection_curves(curves: Mapping[str, np.ndarray], truth: np.ndarray) -> Figure:
    """ROC and precision-recall curves of scores [N] by name, against truth [N]."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure, (roc, pr) = subplots(2, figsize=(WIDTH, 6.4))
    for name, scores in curves.items():
        style = {"linewidth": 1.8 if name == "autoencoder" else 1.0}
        false, true, _ = roc_curve(truth, scores)
        precision, recall, _ = precision_recall_curve(truth, scores)
        roc.plot(false, true, label=name.replace("_", " "), **style)
        pr.plot(recall, precision, **style)
    roc.set(xlabel="share of the normal examples that are flagged", ylabel="share of the anomalies", title="ROC")
    pr.set(xlabel="recall", ylabel="precision", title="precision and recall", ylim=(0, 1.02))
    for ax in (roc, pr):
        ax.grid(alpha=0.3)
    legend(roc, loc="lower right")
    return figure


def heat(squares: np.ndarray, most: float) -> np.ndarray:
    """Squared residuals [..., H, W, C] as colours [..., H, W, 3]: light for a root mean square of `most`."""
    return colour_map("inferno")(np.sqrt(squares.mean(-1)) / most)[..., :3].astype(np.float32)


def anomaly_images(x: np.ndarray, r: np.ndarray) -> Figure:
    """Images, their reconstructions, and maps of the error."""
    squares = (x - r) ** 2
    most = float(np.sqrt(np.percentile(squares.mean(-1), 99.5)))
    return image_rows({"most anomalous": x, "reconstruction": r, "error": heat(squares, most or 1.0)})


def anomaly_rows(shares: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """Residuals [n, D] of rows in units of their deviation, for the columns where they are largest."""
    largest = np.sort(np.argsort(-shares.max(0), kind="stable")[:ROWS])
    figure, ax = subplots(figsize=(WIDTH, 1.6 + 0.27 * len(largest)))
    drawn = ax.imshow(shares[:, largest].T, cmap="inferno", vmin=0, aspect="auto")
    ax.set_yticks(np.arange(len(largest)), [short(columns[j]) for j in largest])
    ax.set_xticks(np.arange(len(rows)), rows, rotation=90)
    ax.set_xlabel("row of the test split, most anomalous first")
    bar = figure.colorbar(drawn, label="|residual| / deviation")
    bar.ax.tick_params(colors=INK)
    bar.ax.yaxis.label.set_color(INK)
    return figure


def anomaly_series(
    steps: np.ndarray,
    value: np.ndarray,
    score: np.ndarray,
    threshold: float,
    shades: Mapping[str, Sequence[tuple[int, int]]],
    channels: Sequence[str],
    name: str,
) -> Figure:
    """Series [T, C], its score and the threshold; shades: intervals (first, one after the last) by name.

    Of many channels the first ROWS / 4 are shown.
    """
    shown = value[:, : ROWS // 4]
    heights = [*[1.2] * shown.shape[1], 0.35 * len(shades), 1.4]
    figure, axes = subplots(
        len(heights), figsize=(WIDTH, sum(heights) + 0.6), sharex=True, gridspec_kw={"height_ratios": heights}
    )
    *series, bars, last = axes
    for j, ax in enumerate(series):
        ax.plot(steps, shown[:, j], color=INK, linewidth=0.7)
        ax.set_ylabel(short(channels[j]) if channels else "value" if shown.shape[1] == 1 else f"channel {j}")
    for row, (kind, intervals) in enumerate(shades.items()):
        spans = [(steps[first], after - first) for first, after in intervals]
        bars.broken_barh(spans, (row - 0.35, 0.7), color=f"C{row + 1}", label=kind)
    bars.set_yticks(range(len(shades)), list(shades))
    bars.set_ylim(len(shades) - 0.5, -0.5)
    last.plot(steps, score, linewidth=0.9, label="score")
    last.axhline(threshold, color=INK, linewidth=1.0, linestyle="--", label="threshold")
    last.set(xlabel="step", ylabel="score")
    legend(last, fontsize="small")
    if name:
        axes[0].set_title(name, loc="left", fontsize="medium", color=INK)
    return figure
