"""All 70,000 images of MNIST as one training set, measured on the same images.

python launch/mnist_all.py DATA/mnist      writes runs/reproduce/mnist_all.npz

Papers on clustering train on these images without labels and measure the clusters of the same images.
"""

import sys
from pathlib import Path

import numpy as np

from aejax import config
from aejax.data import sources

out = Path("runs/reproduce/mnist_all.npz")
if not out.exists():
    data = sources.load(config.default(f"idx:{sys.argv[1]}").lock())
    x, y = (np.concatenate([data.train[name], data.test[name]]) for name in ("x", "y"))
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_suffix(".tmp.npz")
    np.savez(temporary, x_train=x, y_train=y, x_test=x, y_test=y)
    temporary.replace(out)
