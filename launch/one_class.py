"""One-class detection on MNIST: train on one digit, find the other nine among the test images.

  python launch/one_class.py FOLDER [--members=5] [--digits=0123456789] [--validation] [--in_turn] [--workdir=DIR]

FOLDER holds the four IDX files. For each digit AnomalyDetector("anomaly_images") is trained on the digit's training
images and scores the 10,000 test images, as in Ruff et al. (2018). Columns: AUROC in percent of aejax, of the distance
to the 5th neighbour in pixels, and of the residual of PCA with 30 components; seconds of aejax for a digit, of fit, and
of fit and score. The models of all digits are trained together; each gets an equal share of the time. DIR (default
runs/one_class) keeps the digits that are done, and gets table.csv.

--in_turn: fit one digit after another, to compare the seconds.
--validation: train on the first 50,000 training images and score the last 10,000, to choose settings.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from rows import Row, Rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--digits", default="0123456789")
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--in_turn", action="store_true")
    parser.add_argument("--workdir", type=Path, default=Path("runs/one_class"))
    given = parser.parse_args()
    from sklearn.decomposition import PCA
    from sklearn.metrics import roc_auc_score

    from aejax import cli
    from aejax import config as config_lib
    from aejax.data.sources import idx
    from aejax.parallel import mesh
    from aejax.sklearn import AnomalyDetector, fit_all
    from aejax.storage import run_dir
    from aejax.uses.neighbours import Points

    cli.cache_compilations()
    mesh.split_cpu(run_dir.cores())
    raw = idx.read(str(given.folder), config_lib.default())
    x, y, x_test, y_test = (np.asarray(raw[name]) for name in ("x_train", "y_train", "x_test", "y_test"))
    if given.validation:
        x, y, x_test, y_test = x[:50_000], y[:50_000], x[50_000:], y[50_000:]
    pixels, pixels_test = (part.reshape(len(part), -1) / np.float32(255) for part in (x, x_test))

    rows = Rows(given.workdir, given)
    todo = [digit for digit in map(int, given.digits) if f"digit {digit}" not in rows.rows]
    begin = time.perf_counter()
    at_once = [[digit] for digit in todo] if given.in_turn else [todo] * bool(todo)
    fitted = {}
    for digits in at_once:
        detectors = [AnomalyDetector("anomaly_images", members=given.members) for _ in digits]
        fitted |= zip(digits, fit_all(detectors, [x[y == digit] for digit in digits]), strict=True)
    fit_seconds = (time.perf_counter() - begin) / max(len(todo), 1)

    def measure(digit: int) -> Row:
        own, truth = y == digit, y_test != digit
        begin = time.perf_counter()
        scores = {"aejax": -fitted[digit].score_samples(x_test)}
        seconds = fit_seconds + time.perf_counter() - begin
        scores["KNN"] = -Points(pixels[own], "euclidean").search(pixels_test, 5).similarity[:, -1]
        pca = PCA(30, random_state=0).fit(pixels[own])
        scores["PCA"] = ((pixels_test - pca.inverse_transform(pca.transform(pixels_test))) ** 2).sum(1)
        found = {name: 100 * float(roc_auc_score(truth, values)) for name, values in scores.items()}
        return found | {"fit_seconds": fit_seconds, "seconds": seconds}

    for digit in map(int, given.digits):
        rows.measure(f"digit {digit}", lambda digit=digit: measure(digit))
    rows.finish({"seconds": sum(row["seconds"] for row in rows.rows.values())})


if __name__ == "__main__":
    main()
