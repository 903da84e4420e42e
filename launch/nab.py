"""The anomaly detector of long series on every .npz file of a folder, beside PCA and nearest neighbours.

  python launch/nab.py FOLDER [--seeds=5] [--members=1] [--workdir=DIR] [--without=NAME,...] [--set=FIELD=VALUE,...]
      [--tuning=DRAWS]

FOLDER holds .npz files with value [T], label [T] and train, the steps of the training part, such as seven series of NAB
as TSB-AD splits them, and perhaps published_vus_pr.csv, whose rows are shown. One recipe: configs/series_anomaly.py.

Columns: VUS-PR of aejax (the mean over the seeds, of `members` models each), its deviation over the seeds, PCA (the
components that explain 90 % of the variance), KNN (distance to the 5th neighbour), a time ramp and random scores: of
the test part, and `whole`, of all steps of the series, as published numbers are. All methods score the same windows,
and are fitted to those of the training part alone. The buffer of VUS is a window. DIR (default runs/nab) keeps the
series that are done, and gets table.csv.

--tuning=DRAWS measures settings without any label and without the test part: models are trained on the first 60 % of
the training part, and anomalies of nine kinds are put into copies of its rest, DRAWS of each kind. The numbers are then
the area under the range-based precision and recall with a buffer of half a window. --set changes fields of the config.
"""

import argparse
import csv
import dataclasses
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


def measure(path: Path, seeds: int, members: int, fields: str) -> Row:
    from aejax.data import sources
    from aejax.uses.anomaly import steps
    from aejax.uses.data import Data

    config = configured(path, fields)
    models, data = trained(config, sources.raw(config), seeds * members)
    parts, width, own = data.parts, data.spec.x.shape[0], config.uses.anomaly
    every = {"": {"test": parts["test"]}, "_whole": parts}
    found: dict[str, list[float]] = {}

    def add(name: str, scores: dict[str, np.ndarray]) -> None:
        for end, some in every.items():
            found.setdefault(f"{name}{end}", []).append(steps.vus_pr(some, scores, width))

    for made in detectors(config, models, data, members):
        add("aejax", {name: part.at_steps(made.score(getattr(data, name)["x"])) for name, part in parts.items()})
    both = Data(models[0].experiment, data)
    beside = {part: steps.simple(both, own.neighbours, own.references, part) for part in parts}
    for shown, name in BASELINES.items():
        add(shown, {part: beside[part][name] for part in parts})
    row = {name: float(np.mean(values)) for name, values in found.items()}
    deviations = {f"aejax{end}_std": float(np.std(found[f"aejax{end}"], ddof=1)) for end in every} if seeds > 1 else {}
    return row | deviations | {"window": width}


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
    """The same on anomalies that are put into the end of the training part."""
    from aeon.benchmarking.metrics.anomaly_detection import range_pr_auc_score

    from aejax.data import windows
    from aejax.data.sources import series
    from aejax.uses.anomaly.quality import baselines
    from aejax.uses.data import Data

    config = configured(path, fields)
    found = series.load(str(path), config)
    own = found.series[0]
    prefix = dataclasses.replace(own, value=own.value[: found.train], time=range(found.train), label=None)
    begin = round(SHARE * found.train)
    raw = series.cut(series.Found([prefix], begin), config)
    models, data = trained(config, raw, seeds * members)
    made, width, random = detectors(config, models, data, members), data.spec.x.shape[0], np.random.default_rng(0)
    result, own_use = dict[str, list[float]](), config.uses.anomaly
    held = prefix.value[begin:]
    for kind in KINDS * draws:
        value, label = injected(held, kind, random)
        part = windows.part([windows.Series("", value, range(len(value)), label)], [0], [len(value)], width, 1)
        x = data.spec.x.scale(part.cut(centred=config.data.center_windows))
        scores = {f"aejax{s}": one.score(x) for s, one in enumerate(made)}
        beside = Data(models[0].experiment, dataclasses.replace(data, test={"x": x}))
        scores |= baselines(beside, own_use.neighbours, own_use.references, forest=False)
        for name, window_scores in scores.items():
            area = range_pr_auc_score(label.astype(int), part.at_steps(window_scores), buffer_size=width // 2)
            result.setdefault(name, []).append(float(area))
    mean = {name: float(np.mean(values)) for name, values in result.items()}
    ours = [mean.pop(f"aejax{s}") for s in range(seeds)]
    return {"aejax": float(np.mean(ours)), "PCA": mean["pca"], "KNN": mean["knn"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--without", default="")
    parser.add_argument("--set", default="")
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
            lambda settings=settings: tuned(*settings, given.tuning) if given.tuning else measure(*settings),
        )
    rows.finish({})
    published = given.folder / "published_vus_pr.csv"
    if published.exists() and not given.tuning:
        with open(published, newline="") as file:
            for row in csv.reader(file):
                print(f"published, {row[0]}:" if row[0] != "file" else "published, whole series:", ", ".join(row[1:]))


if __name__ == "__main__":
    main()
