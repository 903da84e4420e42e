"""The anomaly detector of long series on every .npz file of a folder, beside PCA and nearest neighbours.

  python launch/nab.py FOLDER [--seeds=5] [--members=1] [--workdir=DIR] [--without=NAME,...] [--set=FIELD=VALUE;...]
      [--whole] [--tuning=DRAWS]

FOLDER holds .npz files with value [T], label [T] and train, the steps of the training part, such as seven series of NAB
as TSB-AD splits them, and perhaps published_vus_pr.csv, whose rows are shown. One recipe: configs/series_anomaly.py.

Columns: VUS-PR of aejax (the mean over the seeds, of `members` models each), its deviation over the seeds, PCA (the
components that explain 90 % of the variance), KNN (distance to the 5th neighbour), a time ramp and random scores;
the steps of a window; seconds of aejax, all seeds and their VUS. All methods score the same windows of the test part,
and are fitted to those of the training part alone. The buffer of VUS is a window. DIR (default runs/nab) keeps the
series that are done, and gets table.csv. --whole scores all steps of the series, as the published numbers do.

--tuning=DRAWS measures settings without any label and without the test part: models are trained on the first 60 % of
the training part, and anomalies of nine kinds are put into copies of its rest, DRAWS of each kind. The numbers are then
average precisions of steps. --set changes fields of the config.
"""

import argparse
import csv
import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
from rows import Row, Rows

SHARE = 0.6  # of the training part to which models are fitted in tuning
BASELINES = {"PCA": "pca", "KNN": "knn", "time": "time", "random": "random"}


def configured(path: Path, fields: str):
    import runpy

    from aejax import config as config_lib

    file = Path(__file__).parent.parent / "configs" / "series_anomaly.py"
    config = runpy.run_path(str(file))["get_config"](f"series:{path}")
    for field in filter(None, fields.split(";")):
        name, _, text = field.partition("=")
        config_lib.set_field(config, name, config_lib.declared()[name].parse(name, text))
    return config


def trained(config, raw, count: int):
    """`count` models of windows `raw`, of seeds 0, 1, ..., and their data."""
    from aejax import experiment as experiment_lib
    from aejax.data.dataset import build
    from aejax.trained import of_state
    from aejax.training import plan, population

    config = plan.resolve(config)
    data = build(raw, config)
    if config.train.batch_size > data.spec.train:
        config.train.batch_size = data.spec.train
    experiment = experiment_lib.build(config, data.spec)
    experiments = [population.with_seed(experiment, seed) for seed in range(count)]
    states, _ = population.train(experiments, [data] * count, [np.arange(data.spec.train)] * count)
    return [of_state(one, state) for one, state in zip(experiments, states, strict=True)], data


def detectors(config, models, data, members: int):
    """A detector of each `members` models."""
    from aejax.uses.anomaly.detector import fit, settings

    own = config.uses.anomaly
    how = settings(own.score, own.terms, own.weights, own.neighbours, "series")
    rows = [np.arange(data.spec.train)] * members
    return [
        fit(models[i : i + members], data.train["x"], rows, how, own.references) for i in range(0, len(models), members)
    ]


def measure(path: Path, seeds: int, members: int, fields: str, whole: bool) -> Row:
    from aejax.data import sources
    from aejax.uses.anomaly import steps
    from aejax.uses.data import Data

    begin, config = time.perf_counter(), configured(path, fields)
    models, data = trained(config, sources.raw(config), seeds * members)
    own, parts = config.uses.anomaly, data.parts if whole else {"test": data.parts["test"]}

    def volume(scores: dict[str, np.ndarray]) -> float:
        found = steps.vus_pr(parts, scores, data.spec.x.shape[0])
        if found is None:
            sys.exit("nab: needs aeon: pip install 'aejax[series]'")
        return found

    ours = [
        volume({name: part.at_steps(made.score(getattr(data, name)["x"])) for name, part in parts.items()})
        for made in detectors(config, models, data, members)
    ]
    seconds = time.perf_counter() - begin
    beside = {
        part: steps.simple(Data(models[0].experiment, data), own.neighbours, own.references, part) for part in parts
    }
    row = {"aejax": float(np.mean(ours)), "aejax_std": float(np.std(ours, ddof=1)) if seeds > 1 else 0.0}
    row |= {shown: volume({part: beside[part][name] for part in parts}) for shown, name in BASELINES.items()}
    return row | {"window": data.spec.x.shape[0], "seconds": seconds}


def injected(value: np.ndarray, kind: str, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A copy of the steps value [T, 1] with one anomaly of 20 to 100 steps, and its label [T]."""
    steps, scale = len(value), float(value.std()) or 1.0
    n = int(random.integers(20, min(100, steps // 3) + 1))
    a = int(random.integers(0, steps - n + 1))
    own, t = value[a : a + n], np.arange(n)
    sign = random.choice([-1.0, 1.0])
    other = int(random.integers(0, steps - n + 1))
    new = {
        "flat": lambda: np.full_like(own, own.mean()),
        "noise": lambda: own + scale * random.standard_normal(own.shape),
        "small": lambda: own.mean() + 0.3 * (own - own.mean()),
        "large": lambda: own.mean() + 2.0 * (own - own.mean()),
        "shift": lambda: own + sign * scale,
        "reversed": lambda: own[::-1],
        "fast": lambda: value[(a + 2 * t) % steps],
        "elsewhere": lambda: value[other : other + n],
        "spikes": lambda: own + 3 * sign * scale * (random.random(own.shape) < 0.1),
    }[kind]()
    made, label = value.copy(), np.zeros(steps, np.int8)
    made[a : a + n], label[a : a + n] = new, 1
    return made, label


KINDS = ("flat", "noise", "small", "large", "shift", "reversed", "fast", "elsewhere", "spikes")


def tuned(path: Path, seeds: int, members: int, fields: str, draws: int) -> Row:
    """Average precision of the steps of anomalies that are put into the end of the training part."""
    from sklearn.metrics import average_precision_score

    from aejax.data import windows
    from aejax.data.sources import series
    from aejax.uses.anomaly.quality import baselines
    from aejax.uses.data import Data

    config = configured(path, fields)
    found, own = series.load(str(path), config), config.uses.anomaly
    prefix = dataclasses.replace(found.series[0], value=found.series[0].value[: found.train], label=None)
    begin = round(SHARE * found.train)
    models, data = trained(config, series.cut(series.Found([prefix], begin), config), seeds * members)
    held, random, width = prefix.value[begin:], np.random.default_rng(0), data.spec.x.shape[0]
    made = [injected(held, kind, random) for kind in KINDS * draws]
    parts = [
        windows.part(
            [windows.Series("", value, range(len(value)), label)], [0], [len(value)], width, config.data.stride
        )
        for value, label in made
    ]
    cut = [data.spec.x.scale(part.cut(centred=config.data.center_windows)) for part in parts]
    x = np.concatenate(cut)
    beside = Data(models[0].experiment, dataclasses.replace(data, test={"x": x}))
    scores = {str(i): one.score(x) for i, one in enumerate(detectors(config, models, data, members))}
    scores |= baselines(beside, own.neighbours, own.references, forest=False)
    precision = {
        name: float(np.mean([average_precision_score(part.label(), part.at_steps(one))
                             for part, one in zip(parts, np.split(values, len(parts)), strict=True)]))
        for name, values in scores.items()
    }  # fmt: skip
    ours = float(np.mean([precision[str(i)] for i in range(seeds)]))
    return {"aejax": ours, "PCA": precision["pca"], "KNN": precision["knn"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--without", default="")
    parser.add_argument("--set", default="")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--tuning", type=int, default=0)
    parser.add_argument("--workdir", type=Path, default=Path("runs/nab"))
    given = parser.parse_args()
    from aejax import cli
    from aejax.parallel import mesh
    from aejax.storage import run_dir

    cli.cache_compilations()
    mesh.split_cpu(run_dir.cores())
    left_out = list(filter(None, given.without.split(",")))
    files = [file for file in sorted(given.folder.glob("nab_*.npz")) if not any(name in file.stem for name in left_out)]
    rows = Rows(given.workdir, given)
    for file in files:
        settings = (file, given.seeds, given.members, given.set)
        rows.measure(
            file.stem,
            lambda settings=settings: (
                tuned(*settings, given.tuning) if given.tuning else measure(*settings, given.whole)
            ),
        )
    rows.finish({"seconds": sum(row.get("seconds", 0.0) for row in rows.rows.values())})
    published = given.folder / "published_vus_pr.csv"
    if published.exists() and not given.tuning:
        with open(published, newline="") as file:
            for row in csv.reader(file):
                print(f"published, {row[0]}:" if row[0] != "file" else "published, whole series:", ", ".join(row[1:]))


if __name__ == "__main__":
    main()
