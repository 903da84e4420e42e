"""The page of a run: report.html, one offline file made from the files of the run directory."""

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.colors import to_hex
from ml_collections import ConfigDict
from PIL import Image

from aejax import config as config_lib
from aejax.data.spec import Spec
from aejax.errors import InputError
from aejax.page import diagnosis, query, results, search
from aejax.page.command import reproduce
from aejax.plots import outside
from aejax.storage import metrics as metrics_lib
from aejax.storage import run_dir

TEMPLATE = Path(__file__).with_name("report.html")
DIAGNOSTICS = ("learning_rate", "gradient_norm", "parameter_norm", "examples_per_second")
CAPTIONS = {
    "population": "The members: mean and standard deviation over the seeds",
    "few_labels": "Test error by the number of labels: mean and standard deviation over the draws",
    "stages": "Reconstruction by each stage of pretraining, of the code below it",
    "reconstructions": "Test examples and their reconstructions",
    "codes": "Codes of the test split; below, PCA of the examples",
    "grid": "Images decoded over an even grid of codes",
    "samples": "Samples from the prior",
    "filters": "Weights of the first layer's units",
    "denoise": "Input of the model, its output, and the target",
    "inpaint": "Input of the model, its output, and the target",
    "colorize": "Input of the model, its output, and the target",
    "completions": "Visible part, and draws of the hidden part",
    "anomaly_scores": "Anomaly scores of the test split",
    "detection": "Detection of the anomalies of the test split, beside simple methods",
    "anomalies": "The most anomalous test examples",
    "anomaly_series": "The test part of a series, the labelled and the flagged intervals, and the score of each step",
    "cluster_map": "Codes of the test split by cluster, beside the same by label",
    "cluster_examples": "The decoded centre of each cluster and the test examples nearest to it. At the left: cluster: "
    "number of test examples, most frequent label and its share",
    "restoration_levels": "PSNR of the test images over the level of the damage, beside simple methods",
    "restoration_median": "Test images whose restoration has about the median PSNR",
    "restoration_series": "Test series, and their hidden spans filled in by the model and by a simple method",
    "restoration_worst": "Test images whose restoration has the lowest PSNR, the worst first",
    "sizes": "Size of the compressed test split, beside other compressors. Bits-back coding aims at the ELBO",
    "rate_distortion": "Squared error of the test examples over the size of the file. A point is a step of the "
    "quantiser with a number of units; the line joins the best ones",
    "compressed": "Test images, and what is decoded from files of several sizes",
    "prefixes": "Squared error of the first units of the code, and of as many principal components, not quantised",
    "generated": "Images decoded from codes that each sampler draws",
    "nearest_training": "Samples of the sampler with the lowest FID, and the nearest training images",
    "traversals": "One unit of the code from its 2nd to its 98th percentile; the other units have their mean. The "
    "units are in the order of their KL in nats; without a KL, of their variance",
    "interpolations": "Between two test images: codes on a line, codes on a great circle, and a blend of the pixels",
    "query": "A test example as a query on the map of the training codes",
    "neighbours": "Test examples, and the nearest training examples of each",
    "singular_values": "Singular values of the encoder's Jacobian",
    "tangents": "Leading directions that the code follows",
    "translation": "The curve of a moved image, and its tangent",
    "dimension": "Singular values of the Jacobian of the reconstruction. The model keeps the directions whose value is "
    "at least 1/2",
    "graph": "Nearest neighbours of the test codes, with the shortest paths between pairs of them",
    "paths": "Images between two test images: along the shortest path, on the straight line in the code, and in pixels",
    "density": "Test images, and draws from the densities that have a Gaussian at each of many training images",
}
SEARCH = "The settings that were drawn: validation loss while they were trained, and by the value of each field"
TABLE = {
    "reconstructions": "Squared error of each column as a share of its variance; 1 is what the column's mean reaches",
    "cluster_examples": "The decoded centre of each cluster, in deviations of each column from its mean",
}
CURVE = 500  # most points in a curve
COLUMNS = 24  # most columns of a table under the pointer


def write(path: Path) -> None:
    """report.html of a finished run; raises InputError."""
    run_dir.write_output(path / run_dir.REPORT, page(path))


def page(path: Path) -> str:
    """The page of a run directory: the same text for the same files. Raises InputError."""
    config, spec = run_dir.read(path)
    measured = run_dir.read_results(path)
    if measured is None:
        raise InputError(f"workdir {path}: the run is not finished; the command that started it resumes it")
    measured = dict(measured)
    for file in sorted((path / run_dir.USES).glob(f"*/{run_dir.RESULTS}")):  # later measurements replace earlier ones
        measured |= run_dir.read_results(file.parent) or {}
    likelihood = results.likelihood(config)
    environment = json.loads((path / run_dir.ENVIRONMENT).read_text())
    metrics = [line for line in metrics_lib.read(path) if "stage" not in line]
    decoded = _map(path / run_dir.FIGURES / run_dir.MAP, spec)
    jinja = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    jinja.filters["parted"] = _parted
    jinja.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False}
    return jinja.from_string(TEMPLATE.read_text()).render(
        title=path.resolve().name,
        summary=_summary(config, spec),
        tiles=[_tile(name, measured, likelihood) for name in results.headline(measured)],
        notes=[search.best(path)] if config.population.search else diagnosis.notes(config, measured, metrics),
        results=[_row(name, measured, likelihood) for name in results.named(measured)],
        map=decoded and decoded["about"],
        splits=[split for split in ("train", "validation", "test") if any(m["split"] == split for m in metrics)],
        diagnostics=any(name in line for line in metrics for name in DIAGNOSTICS),
        figures=_figures(path, spec.x.kind, {"population": SEARCH} if config.population.search else {}),
        differences=_differences(config),
        origin=_origin(spec, environment),
        command=reproduce(config),
        digest=spec.digest,
        commit=environment.get("commit"),
        data={
            "curves": _curves(metrics, [n for n in _names(metrics) if n not in DIAGNOSTICS]),
            "diagnostics": _curves(metrics, [n for n in DIAGNOSTICS if n in _names(metrics)]),
            "map": decoded and decoded["data"],
        },
    )


def _summary(config: ConfigDict, spec: Spec) -> str:
    model, bottleneck = config.model, config.model.bottleneck
    parts = [config.pair.name, f"{model.name} {'-'.join(map(str, model.encoder.widths))}".strip()]
    parts += [f"{bottleneck.name} code of {bottleneck.size}" if bottleneck.size else f"{bottleneck.name} code map"]
    parts += (
        [f"pretrained in stages of {'-'.join(map(str, config.pretrain.widths))} units"]
        if config.pretrain.widths
        else []
    )
    parts += [f"starts from {config.init_from}"] if config.init_from else []
    parts += ["encoder frozen"] if config.finetune.freeze else []
    parts += [config.objective.likelihood, f"{spec.train:,} {_examples(spec)} of {config.data.source}"]
    return " · ".join(parts)


def _examples(spec: Spec) -> str:
    return (
        f"{spec.x.kind}s of {'×'.join(map(str, spec.x.shape))}"
        if spec.x.kind == "image"
        else f"rows of {spec.x.shape[0]}"
    )


def _parted(name: str) -> Markup:
    """A name with a possible line break after each / . or _."""
    return Markup("<wbr>").join(map(escape, re.findall(r"[^/._]+[/._]?|[/._]", name)))


def _tile(name: str, measured: Mapping[str, float], likelihood: str) -> dict[str, str]:
    beside = [f"{label} {_number(measured[other])}" for label, other in results.baselines(name, measured).items()]
    return _row(name, measured, likelihood) | {"beside": ", ".join(beside)}


def _row(name: str, measured: Mapping[str, float], likelihood: str) -> dict[str, str]:
    number = _number(measured[name], measured.get(name + results.DEVIATION))
    return {"name": name, "number": number, "about": results.about(name, likelihood)}


def _number(value: float, deviation: float | None = None) -> str:
    text = f"{value:,.0f}" if abs(value) >= 10_000 else results.spread(value, deviation)
    return text.replace("-", "−")


def _differences(config: ConfigDict) -> list[dict[str, str]]:
    config, base = config_lib.move_renamed(config), config_lib.move_renamed(config_lib.default())
    if count := config_lib.stage_sections(config.pretrain):
        config_lib.stages(base, count)
    default, own = (config_lib.flatten(c.to_dict()) for c in (base, config))
    # The default of a stage's field is that of all stages.
    default |= {name: own[re.sub(r"\.stage_\d+\.", ".default.", name)] for name in own if ".stage_" in name}
    return [
        {"name": name, "value": _shown(value), "default": _shown(default[name])}
        for name, value in own.items()
        if value != default[name] and (config.pretrain.widths or not name.startswith("pretrain."))
    ]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "()"
    return '""' if value == "" else "null" if value is None else str(value)


def _origin(spec: Spec, environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    devices = environment["devices"]
    return [
        ("Examples", f"{spec.train:,} train, {spec.validation:,} validation, {spec.test:,} test; {_examples(spec)}"),
        *([("Classes", ", ".join(spec.classes))] if 0 < len(spec.classes) <= 40 else []),
        ("Digest of the data", spec.digest),
        ("Devices", ", ".join(f"{devices.count(kind)} × {kind}" for kind in sorted(set(devices)))),
        ("CPU cores", str(environment["cores"])),
        ("Python", environment["python"]),
        ("Packages", packages),
    ]


def _figures(path: Path, kind: str, own: dict[str, str]) -> list[dict[str, Any]]:
    """The figures of the run and of its uses, apart from those that the page draws itself."""
    folders = [path / run_dir.FIGURES, *sorted((path / run_dir.USES).glob(f"*/{run_dir.FIGURES}"))]
    files = {file.stem: file for folder in folders for file in sorted(folder.glob("*.png")) if file.stem != "loss"}
    captions = (CAPTIONS if kind == "image" else CAPTIONS | TABLE) | own
    names = [name for name in captions if name in files] + [name for name in files if name not in captions]
    return [
        {
            "source": _embedded(files[name].read_bytes()),
            "caption": captions.get(name, name.replace("_", " ")),
        }
        for name in names
    ]


def _embedded(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _names(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """The loss, its terms, then what is measured besides."""
    logged = dict.fromkeys(name for line in metrics for name in line if name not in ("step", "epoch", "split"))
    return sorted(logged, key=lambda name: (name != "loss", "clean/" in name))


def _curves(metrics: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """{name, about, lines: {split: [[epoch, value], ...]}}; metrics that are the same throughout share a curve."""
    curves: list[dict[str, Any]] = []
    for name in names:
        lines = {}
        for split in ("train", "validation", "test"):
            points = [(line["epoch"], line[name]) for line in metrics if line["split"] == split and name in line]
            points = [point for point in points if np.isfinite(point[1])]
            if points:
                every = -(-len(points) // CURVE)
                lines[split] = [[epoch, float(f"{value:.6g}")] for epoch, value in points[::-every][::-1]]
        same = next((curve for curve in curves if _same(curve["lines"], lines)), None)
        if same:
            same["name"] += f" = {name.replace('_', ' ')}"
        elif lines:
            curves.append({"name": name.replace("_", " "), "about": results.about(name), "lines": lines})
    return curves


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        len(a[split]) == len(b[split]) and np.allclose(a[split], b[split], rtol=1e-4) for split in a
    )


def _map(path: Path, spec: Spec) -> dict[str, Any] | None:
    """From figures/map.npz: what the page says of the map, and the data that it draws."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as archive:
        stored = {name: archive[name] for name in archive.files}
    codes, box, decoded = stored["codes"], stored["box"], stored.get("decoded")
    limits = box.reshape(2, 2)
    inside = ((codes >= limits[:, 0]) & (codes <= limits[:, 1])).all(1)
    clipped = outside(codes, limits)
    note = f"{len(codes):,} codes of the test split" + (f"; {clipped}" if clipped else "")
    side = len(decoded) if decoded is not None else 48
    asked = query.for_page(stored, spec)
    about: dict[str, Any] = {"image": False, "columns": 0, "query": asked is not None}
    colours = matplotlib.colormaps["tab10" if len(spec.classes) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    data: dict[str, Any] = {
        "codes": [[float(f"{value:.5g}") for value in code] for code in codes[inside]],
        "labels": stored["labels"][inside].tolist() if "labels" in stored else None,
        "classes": spec.classes,
        "box": [float(f"{value:.6g}") for value in box],
        "side": side,
        "colours": [to_hex(colour) for colour in colours],
        "image": None,
        "columns": None,
        "query": asked,
    }
    if decoded is not None:
        note += f". Move over the map: it decodes the nearest of {side} × {side} codes"
    if decoded is not None and spec.x.kind == "image":
        height, width = decoded.shape[2:4]
        zoom = -(-240 // max(height, width))
        about |= {"image": True, "width": width * zoom, "height": height * zoom}
        data["image"] = {"source": _embedded(_mosaic(decoded)), "width": width, "height": height}
    elif decoded is not None:
        flat = decoded.reshape(-1, decoded.shape[-1])
        spread = np.ptp(flat, axis=0) / (np.asarray(spec.x.deviation) if spec.x.deviation else 1)
        chosen = np.sort(np.argsort(-spread, kind="stable")[:COLUMNS])
        note += f"; of {len(spread)} columns those that vary most" if len(chosen) < len(spread) else ""
        names = spec.x.outputs or tuple(str(i) for i in range(len(spread)))
        about["columns"] = len(chosen)
        data["columns"] = {
            "names": [names[i] for i in chosen],
            "ranges": [{"low": float(flat[:, i].min()), "high": float(flat[:, i].max())} for i in chosen],
            "values": base64.b64encode(np.ascontiguousarray(flat[:, chosen], "<f4").tobytes()).decode(),
        }
    return {"about": about | {"note": note + "."}, "data": data}


def _mosaic(tiles: np.ndarray) -> bytes:
    """uint8 [rows, columns, H, W, C] -> one PNG."""
    rows, columns, h, w, c = tiles.shape
    whole = tiles.swapaxes(1, 2).reshape(rows * h, columns * w, c)
    whole = whole if c == 3 else whole.mean(-1).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(whole).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
