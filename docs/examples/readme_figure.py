"""The figure of the README, from two runs on the digits.

python -m aejax.main --config=ae --workdir=runs/ae
python -m aejax.main --config=vae --workdir=runs/vae
python docs/examples/readme_figure.py runs/ae runs/vae docs/images/readme.png
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import aejax
from aejax.data import sources


def tiled(images: np.ndarray, columns: int) -> np.ndarray:
    """Images [N, H, W] as one, in rows of `columns`, with a margin of a pixel."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    rows = padded.reshape(-1, columns, *padded.shape[1:])
    return rows.transpose(0, 2, 1, 3).reshape(len(rows) * padded.shape[1], -1)


def main(codes: str, samples: str, output: str) -> None:
    model, vae = aejax.load(codes), aejax.load(samples)
    test = sources.load(model.config).test
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    scatter, pairs, drawn = figure.subplots(1, 3)
    z = model.encode(test["x"])
    scatter.scatter(*z.T, c=test["y"], cmap="tab10", s=9)
    for label in np.unique(test["y"]):
        x, y = np.median(z[test["y"] == label], axis=0)
        box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1}
        scatter.text(x, y, str(label), ha="center", va="center", weight="bold", bbox=box)
    scatter.set(title="code of the test digits", xticks=[], yticks=[])
    first = [int(np.flatnonzero(test["y"] == label)[0]) for label in range(10)]
    given, made = test["x"][first, ..., 0], model.reconstruct(test["x"][first])[..., 0]
    both = np.concatenate([given[:5], made[:5], given[5:], made[5:]])
    pairs.imshow(tiled(both, 5), cmap="gray", vmin=0, vmax=1)
    pairs.set_title("test digits above their reconstructions")
    drawn.imshow(tiled(vae.sample(25)[..., 0], 5), cmap="gray", vmin=0, vmax=1)
    drawn.set_title("samples")
    for axes in (pairs, drawn):
        axes.set_axis_off()
    figure.savefig(output, dpi=120)


if __name__ == "__main__":
    main(*sys.argv[1:])
