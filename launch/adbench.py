"""The anomaly detector of aejax on every data set of a folder, beside PCA and nearest neighbours.

  python launch/adbench.py FOLDER [--seeds=5] [--members=5] [--workdir=DIR] [--without=NAME,...] [--halves]
      [--pyod=PYTHON]

FOLDER holds .npz files with X [rows, columns] and y [rows], 0 normal and 1 anomaly, such as those of ADBench. Split
`semi` of DTE (Livernoche et al., 2024): train on the first half of the normal rows, test on the others and all
anomalies. A set of fewer than 1,000 rows is first drawn with replacement up to 1,000, one above 50,000 down to it; only
these splits differ by seed. One recipe for all sets: AnomalyDetector() with the config `anomaly`.

Columns: AUROC in percent, mean over the seeds, of aejax, KNN (distance to the 5th neighbour) and PCA (PyOD's score:
distances to the eigenvectors, each divided by its share of the variance), on standardised columns; the share of normal
test rows above the threshold at contamination 0.05; seconds of fit and score of aejax, all members, for a seed: the
seeds of a set are trained together. DIR (default runs/adbench) keeps the sets that are done, and gets table.csv.

--halves also scores by each of CANDIDATES: on five random halves of the sets the best one is chosen, and reported on
the other half.

--pyod=PYTHON also runs PyOD's AutoEncoder, with its defaults and 50 epochs, in turn with aejax, by the Python of an
environment that has pyod, torch and tqdm.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rows import Row, Rows

CONTAMINATION = 0.05
CANDIDATES = {  # weights of the logarithms of (standardized, code_knn)
    "residual": (1.0, 0.0),
    "neighbours": (0.0, 1.0),
    "1:1": (1.0, 1.0),
    "1:2": (1.0, 2.0),
    "1:4": (1.0, 4.0),
}
HALVES = 5
PYOD = """
import sys, time, warnings, numpy as np
warnings.filterwarnings("ignore")
from pyod.models.auto_encoder import AutoEncoder
found = np.load(sys.argv[1])
begin = time.perf_counter()
model = AutoEncoder(epoch_num=50, random_state=int(sys.argv[3]), verbose=0).fit(found["train"])
scores = model.decision_function(found["test"])
np.savez(sys.argv[2], scores=scores, seconds=time.perf_counter() - begin)
"""


def split(path: Path, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training rows, test rows, and whether each test row is an anomaly."""
    with np.load(path) as archive:
        x, y = archive["X"].astype(np.float64), archive["y"] != 0
    rng = np.random.default_rng(seed)
    if len(x) < 1000 or len(x) > 50_000:
        rows = rng.choice(len(x), 1000) if len(x) < 1000 else rng.choice(len(x), 50_000, replace=False)
        x, y = x[rows], y[rows]
    normal, anomalies = np.flatnonzero(~y), np.flatnonzero(y)
    half = round(len(normal) / 2)
    test = np.concatenate([normal[half:], anomalies])
    return x[normal[:half]], x[test], y[test]


def knn(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0][:, -1]


def pca(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """PyOD's score; the largest entry of each left singular vector is positive."""
    from sklearn.decomposition import PCA

    fitted = PCA(svd_solver="full").fit(train)
    left, _, axes = np.linalg.svd(train - train.mean(0), full_matrices=False)
    signs = np.sign(left[np.abs(left).argmax(0), np.arange(left.shape[1])])
    axes, shares = axes * signs[:, None], fitted.explained_variance_ratio_
    kept = shares > 1e-12
    axes, shares = axes[kept], shares[kept]
    return sum(np.linalg.norm(test - axis, axis=1) / share for axis, share in zip(axes, shares, strict=True))


def candidates(detector, train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """Test scores by each of CANDIDATES, of the same models."""
    from aejax.uses.anomaly.detector import Settings, fit

    own, found = detector.detector_, {}
    x, rows = own.model.take(train), detector.rows_
    for name, weights in CANDIDATES.items():
        terms = {t: w for t, w in zip(("standardized", "code_knn"), weights, strict=True) if w}
        how = Settings(terms, True, own.how.neighbours)
        found[name] = fit(own.models, x, rows, how, 20_000).score(own.model.take(test))
    return found


def pyod(python: str, train: np.ndarray, test: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """Scores of PyOD's AutoEncoder, and its seconds of fit and score without the start of the process."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "x.npz", Path(folder) / "scores.npz"
        np.savez(given, train=train, test=test)
        subprocess.run([python, "-c", PYOD, str(given), str(made), str(seed)], check=True, capture_output=True)
        with np.load(made) as archive:
            return archive["scores"], float(archive["seconds"])


def measure(path: Path, seeds: int, members: int, python: str, halves: bool) -> Row:
    """The means over the seeds; the models of all seeds are trained together."""
    from aejax.sklearn import AnomalyDetector, fit_all

    splits = [split(path, seed) for seed in range(seeds)]
    begin = time.perf_counter()
    detectors = [
        AnomalyDetector(contamination=CONTAMINATION, members=members, seed=1000 * seed) for seed in range(seeds)
    ]
    fit_all(detectors, [train for train, _, _ in splits])
    scores = [-own.score_samples(test) for own, (_, test, _) in zip(detectors, splits, strict=True)]
    seconds = (time.perf_counter() - begin) / seeds
    rows = [
        beside(own, found, *splits[seed], seed, python, halves)
        for seed, (own, found) in enumerate(zip(detectors, scores, strict=True))
    ]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} | {"seconds": seconds}


def beside(
    detector, scores: np.ndarray, train: np.ndarray, test: np.ndarray, truth: np.ndarray, seed: int, python: str,
    halves: bool,
) -> Row:  # fmt: skip
    """The numbers of one seed: of a fitted detector and its test scores, and of the baselines."""
    from sklearn.metrics import roc_auc_score
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    scaled = scaler.transform(train), scaler.transform(test)
    found = {"aejax": scores, "KNN": knn(*scaled), "PCA": pca(*scaled)}
    measured = {"flagged_normal": 100 * float((scores[~truth] > detector.threshold_).mean())}
    if python:
        found["PyOD"], measured["pyod_seconds"] = pyod(python, train, test, seed)
    if halves:
        found |= {f"score {name}": values for name, values in candidates(detector, train, test).items()}
    return {name: 100 * float(roc_auc_score(truth, values)) for name, values in found.items()} | measured


def report_halves(table: dict[str, Row]) -> None:
    """Choose the score on one random half of the sets, and report it on the other."""
    names = list(table)
    for i in range(HALVES):
        order = np.random.default_rng(i).permutation(len(names))
        for chosen, left in (np.array_split(order, 2), np.array_split(order, 2)[::-1]):
            mean = {c: np.mean([table[names[j]][f"score {c}"] for j in chosen]) for c in CANDIDATES}
            best = max(mean, key=mean.get)
            ours, theirs = (np.mean([table[names[j]][n] for j in left]) for n in (f"score {best}", "KNN"))
            print(f"half {i}: chosen {best} on {len(chosen)} sets; left out: {ours:.2f}, KNN {theirs:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--workdir", type=Path, default=Path("runs/adbench"))
    parser.add_argument("--pyod", default="")
    parser.add_argument("--without", default="")
    parser.add_argument("--halves", action="store_true", help="choose the score on halves of the sets, too")
    given = parser.parse_args()
    left_out = given.without.split(",") if given.without else []
    files = sorted(given.folder.glob("*.npz"), key=lambda file: (len(file.name.split("_")[0]), file.name))
    files = [file for file in files if not any(name in file.stem for name in left_out)]
    if not files:
        sys.exit(f"adbench: {given.folder}: has no .npz files")
    from aejax import cli
    from aejax.parallel import mesh
    from aejax.storage import run_dir

    cli.cache_compilations()
    mesh.split_cpu(run_dir.cores())

    rows = Rows(given.workdir, given)
    for file in files:
        rows.measure(file.stem, lambda file=file: measure(file, given.seeds, given.members, given.pyod, given.halves))
    own = rows.rows.values()
    seconds = {name: sum(row[name] for row in own) for name in next(iter(own)) if name.endswith("seconds")}
    rows.finish(seconds)  # of all sets, one seed
    print("all sets, one seed:", ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    if given.halves:
        report_halves(rows.rows)


if __name__ == "__main__":
    main()
