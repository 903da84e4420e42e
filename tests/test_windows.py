"""Windows of long series: length, starts, cuts, scores of steps, split by time, source, anomalies in them."""

import csv

import numpy as np
import pytest

from aejax import prediction
from aejax import run as run_lib
from aejax.config import default
from aejax.data import sources, stream, windows
from aejax.data.sources import series
from aejax.errors import InputError
from aejax.storage import saved
from aejax.uses.anomaly import measure as anomaly
from aejax.uses.anomaly import steps
from aejax.uses.data import Data, with_input
from common import change, one_line, small, trained, trainer

FAST = {"uses__run": ("anomaly",), "data__window": 20, "data__stride": 5, "train__steps": 20}


def wave(n=400, period=25, channels=1, seed=0):
    t, noise = np.arange(n)[:, None], np.random.default_rng(seed).standard_normal((n, channels))
    return np.sin(2 * np.pi * t / period + np.arange(channels)) * 3 + 10 + 0.2 * noise


def table(path, ids=("a", "b"), n=200, channels=2):
    """A CSV file of several series, their rows in turn: time, sensor, the channels, and a label."""
    value = {name: wave(n, channels=channels, seed=i) for i, name in enumerate(ids)}
    names = [f"c{j}" for j in range(channels)]
    lines = [",".join(["time", "sensor", *names, "bad"])]
    for i in range(n):
        time = np.datetime64("2024-01-01") + np.timedelta64(i, "h")
        for name in ids:
            label = int(150 <= i < 170)
            numbers = [f"{v + 4 * label * (j == 1):.6f}" for j, v in enumerate(value[name][i])]
            lines.append(",".join([str(time).replace("T", " ") + ":00:00", name, *numbers, str(label)]))
    path.write_text("\n".join(lines) + "\n")
    return value


COLUMNS = {"data__time_column": "time", "data__id_column": "sensor", "data__label_column": "bad"}


# --- windows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "width", "stride"), [(50, 10, 1), (53, 10, 4), (10, 10, 3), (31, 7, 7), (29, 5, 3)])
def test_windows_cover_every_step_and_scores_are_averaged(n, width, stride):
    starts = windows.starts(n, width, stride)
    scores = np.random.default_rng(0).standard_normal((len(starts), 2))
    covered = [[] for _ in range(n)]
    for start, score in zip(starts, scores, strict=True):
        for step in range(start, start + width):
            covered[step].append(score)
    assert min(map(len, covered)) >= 1
    assert starts[-1] == n - width
    assert (np.diff(starts) <= stride).all()
    expected = [np.mean(own, axis=0) for own in covered]
    np.testing.assert_allclose(windows.at_steps(scores, starts, width, n), expected, atol=1e-12)


def test_cut_windows_equal_slices():
    value = wave(60, channels=2)
    value[[3, 17], 0] = np.nan
    starts = windows.starts(60, 12, 5)
    for centred in (False, True):
        own = np.stack([value[s : s + 12] for s in starts])
        expected = own - np.nanmean(own, axis=1, keepdims=True) if centred else own
        np.testing.assert_allclose(windows.cut(value, starts, 12, centred=centred), expected)


@pytest.mark.parametrize("period", [25, 48, 90])
def test_the_period_of_a_wave(period):
    assert abs(windows.period(wave(1000, period)) - period) <= 1


def test_a_trend_has_no_period():
    assert windows.period(np.ones((100, 1))) == 0
    assert windows.period(np.arange(100.0)[:, None]) == 0


# --- the source -----------------------------------------------------------------------------------------------


def test_no_window_crosses_the_split(tmp_path):
    value = wave(400)
    marked = value.copy()
    marked[250:] += 1000  # nothing of the test part may reach the training part, not even its scale
    for name, own in (("a", value), ("b", marked)):
        np.savez(tmp_path / f"{name}.npz", value=own[:, 0], train=250)
    config = change(default(f"series:{tmp_path}/a.npz"), data__window=20, data__validation_fraction=0.2)
    data = sources.load(config)
    ranges = {"train": (0, 200), "validation": (200, 250), "test": (250, 400)}
    for name, (begin, end) in ranges.items():
        part = data.parts[name]
        assert (part.begin[0], part.end[0]) == (begin, end)
        assert part.starts[0][0] == begin
        assert part.starts[0][-1] + 20 == end
        expected = np.lib.stride_tricks.sliding_window_view(value[begin:end, 0], 20)
        np.testing.assert_allclose(data.spec.x.unscale(getattr(data, name)["x"])[..., 0], expected, rtol=1e-5)
    other = sources.load(change(default(f"series:{tmp_path}/b.npz"), data__window=20, data__validation_fraction=0.2))
    np.testing.assert_array_equal(other.train["x"], data.train["x"])
    assert other.spec.x.mean == data.spec.x.mean


def test_the_window_is_that_of_the_training_part(tmp_path):
    value = np.concatenate([wave(300, 25), wave(300, 60)])
    np.savez(tmp_path / "s.npz", value=value, train=300)
    data = sources.load(default(f"series:{tmp_path}/s.npz"))
    assert data.spec.x.shape == (25, 1)
    assert "windows of 25 steps (first peak of the autocorrelation: 25)" in data.describe()
    least = sources.load(change(default(f"series:{tmp_path}/s.npz"), data__least_window=70))
    assert least.spec.x.shape == (70, 1)


def test_series_of_a_table_are_split_each_by_time(tmp_path):
    value = table(tmp_path / "t.csv")
    config = change(default(f"series:{tmp_path}/t.csv"), data__window=20, data__test_fraction=0.3, **COLUMNS)
    data = sources.load(config)
    assert data.spec.x.columns == ("c0", "c1")
    assert [one.name for one in data.parts["test"].series] == ["a", "b"]
    assert data.parts["test"].begin == (140, 140)
    assert data.parts["test"].label().sum() == 40
    assert data.parts["test"].series[0].time[1] == "2024-01-01 01:00:00"
    expected = np.concatenate([windows.cut(own[:140], windows.starts(140, 20, 1), 20) for own in value.values()])
    np.testing.assert_allclose(data.spec.x.unscale(data.train["x"]), expected, rtol=1e-4, atol=1e-4)
    assert "40 of 120 test steps are anomalies" in data.describe()


def test_windows_cut_lazily_are_the_same(tmp_path):
    table(tmp_path / "t.csv")
    config = change(default(f"series:{tmp_path}/t.csv"), data__window=20, data__center_windows=True, **COLUMNS)
    eager = series.read(f"{tmp_path}/t.csv", config)
    lazy = series.streamed(f"{tmp_path}/t.csv", config)
    rows = np.random.default_rng(0).permutation(len(lazy["x_train"]))[:50]
    np.testing.assert_array_equal(np.asarray(lazy["x_train"][rows]), eager["x_train"][rows])


@pytest.mark.parametrize(
    ("arrays", "fields", "parts"),
    [
        ({"train": 30}, {"data__window": 40}, ["window of 40 steps", "steps 0 to 30", "train part", "data.window"]),
        ({"train": 90}, {"data__window": 20}, ["window of 20 steps", "steps 90 to 100", "test part"]),
        ({"train": 60}, {"data__window": 20, "data__validation_fraction": 0.1}, ["validation part", "raise"]),
        ({"train": 0}, {}, ["training part of 0 steps"]),
        ({"train": 100}, {}, ["training part of 100 steps"]),
        ({"train": 60}, {"data__window": 10, "data__stride": 11}, ["data.stride = 11", "at most the 10 steps"]),
        ({"train": 60, "value": np.arange(100.0)}, {}, ["data.window = 0", "no peak"]),
        ({"time": np.r_[:50, 49:99]}, {"data__window": 9}, ["row 50", "repeats", "49 after 49"]),
        ({"time": np.r_[:50, 40:90]}, {"data__window": 9}, ["row 50", "runs backwards", "40 after 49"]),
        ({"label": np.full(100, 2)}, {"data__window": 9}, ["row 0", "label is 2", "0 (normal) or 1 (anomaly)"]),
        ({"label": np.zeros(9)}, {"data__window": 9}, ["label", "(100,)", "(9,)"]),
        ({"value": np.zeros((3, 4, 5))}, {}, ["value", "[T] or [T, channels]", "(3, 4, 5)"]),
    ],
)
def test_wrong_series_are_refused(tmp_path, arrays, fields, parts):
    np.savez(tmp_path / "s.npz", **({"value": wave(100)} | arrays))
    with pytest.raises(InputError) as error:
        sources.load(change(default(f"series:{tmp_path}/s.npz"), **fields))
    one_line(error, *parts)


@pytest.mark.parametrize(
    ("text", "fields", "parts"),
    [
        ("time,v\n1,2\n", {"data__time_column": "when"}, ["data.time_column = 'when'", "time, v"]),
        ("time,v\n1,2\n", {"data__id_column": "who"}, ["data.id_column = 'who'", "time, v"]),
        ("time,v\nmonday,2\n", {"data__time_column": "time"}, ["column time", "times must be numbers"]),
        ("time,v\n1,2\n1,3\n", {"data__time_column": "time"}, ["row 1", "repeats", "1 after 1", "data.id_column"]),
        ("time,v\n2,2\n1,3\n", {"data__time_column": "time"}, ["row 1", "runs backwards", "1 after 2"]),
        ("time,v\n1,a\n", {"data__time_column": "time"}, ["v", "'a'"]),
    ],
)
def test_wrong_tables_of_series_are_refused(tmp_path, text, fields, parts):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError) as error:
        sources.load(change(default(f"series:{tmp_path}/t.csv"), data__window=1, **fields))
    one_line(error, *parts)


def test_a_set_of_series_is_no_long_series(tmp_path):
    np.savez(tmp_path / "s.npz", x=np.zeros((4, 5)))
    with pytest.raises(InputError) as error:
        sources.load(default(f"series:{tmp_path}/s.npz"))
    one_line(error, "must hold value", "npz:FILE")


# --- anomalies ------------------------------------------------------------------------------------------------


def test_the_generated_series_has_its_anomalies_in_the_test_part():
    data = sources.load(default("periodic"))
    assert data.spec.x.shape == (50, 1)
    assert data.parts["train"].label().sum() == 0
    assert len(steps.runs(data.parts["test"].label() == 1)) == 7


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run on two series of two channels, the second of which jumps; what the use measures."""
    path = tmp_path_factory.mktemp("series") / "t.csv"
    table(path)
    config = small(f"series:{path}", data__test_fraction=0.4, **COLUMNS, **FAST)
    run = trainer(config)
    model, data = trained(run), Data(run.experiment, run.data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "vus_pr", lambda *_: 0.5)  # aeon takes seconds to import
        return model, data, anomaly.measure(model, data, score="standardized")


def test_a_step_has_the_mean_score_of_its_windows(measured):
    model, data, result = measured
    made, _ = detected(model, data)
    x, part = data.arrays("test")["x"], data.dataset.parts["test"]
    scores, expected = made.score(x), []
    for one, begin, end, starts, own in part.split(scores):
        assert one.name in "ab"
        expected += [own[(starts <= step) & (step < starts + 20)].mean() for step in range(begin, end)]
    found = part.at_steps(scores)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert result.numbers["anomaly/flagged"] == (found > result.numbers["anomaly/threshold"]).sum()
    names = {f"{b}{m}" for b in ("", "pca/", "knn/", "time/", "random/") for m in ("auroc", "average_precision")}
    assert {f"anomaly/{name}" for name in names} <= set(result.numbers)
    assert result.numbers["anomaly/auroc"] > 0.8
    assert all(draw() is not None for draw in result.figures.values())


def detected(model, data):
    made = steps.fit([model], data.arrays("train")["x"], [np.arange(data.spec.train)],
                     steps.Settings({"standardized": 1.0}, False, 5), 5000)  # fmt: skip
    return made, data.dataset.parts["test"]


def test_intervals_are_the_runs_above_the_threshold(measured):
    model, data, result = measured
    table = result.tables["anomalies"]
    made, part = detected(model, data)
    scores = part.at_steps(made.score(data.arrays("test")["x"]))
    expected = []
    for i, (one, begin, _) in enumerate(part.each()):
        own, k = scores[i * 80 : (i + 1) * 80] > result.numbers["anomaly/threshold"], 0
        while k < 80:
            if own[k]:
                first = k
                while k < 80 and own[k]:
                    k += 1
                expected.append((one.name, one.time[begin + first], one.time[begin + k - 1]))
            k += 1
    assert list(zip(table["id"], table["begin"], table["end"], strict=True)) == expected
    jumps = [c for c, truth in zip(table["channel"], table["anomaly"], strict=True) if truth > 0.5]
    assert jumps
    assert set(jumps) == {"c1"}


@pytest.mark.slow
def test_vus_is_that_of_aeon_with_the_buffer_that_is_stated(measured):
    metrics = pytest.importorskip("aeon.benchmarking.metrics.anomaly_detection")
    model, data, _ = measured
    result = anomaly.measure(model, data, score="standardized", buffer=7)
    made, part = detected(model, data)
    scores = part.at_steps(made.score(data.arrays("test")["x"]))
    expected = [
        metrics.range_pr_vus_score(part.label()[i : i + 80].astype(int), scores[i : i + 80].astype(float), 7)
        for i in (0, 80)
    ]
    assert result.numbers["anomaly/vus_pr"] == pytest.approx(np.mean(expected))
    assert "vus_pr: buffers of 0 to 7 steps" in result.notes
    assert {f"anomaly/{name}/vus_pr" for name in ("pca", "knn", "time", "random")} <= set(result.numbers)


def test_without_aeon_the_volume_is_left_out(measured, monkeypatch):
    model, data, _ = measured
    monkeypatch.setattr(steps, "vus_pr", lambda *_: None)
    result = anomaly.measure(model, data, score="standardized")
    assert not any("vus" in name for name in result.numbers)
    assert any("aejax[series]" in note for note in result.notes)


@pytest.mark.slow
def test_a_run_then_predict(tmp_path):
    table(tmp_path / "t.csv")
    config = small(f"series:{tmp_path}/t.csv", data__test_fraction=0.4, **COLUMNS, **FAST)
    run_lib.run(config, tmp_path / "run")
    model = saved.load(tmp_path / "run")
    for split, n in (("all", 200), ("test", 80)):
        for what, make in (
            ("anomalies", lambda: prediction.anomalies([model], tmp_path / "run", None)),
            ("intervals", lambda: prediction.intervals([model], tmp_path / "run")),
        ):
            rows = stream.read(config.data.source, model.config, model.spec, model.take, split)
            prediction.write(model, rows, what, tmp_path / f"{what}.csv", make())
        found, runs = (
            list(csv.DictReader((tmp_path / f"{w}.csv").read_text().splitlines())) for w in ("anomalies", "intervals")
        )
        assert list(found[0]) == ["id", "time", "score", "threshold", "flag", "p_value"]
        assert [row["id"] for row in found] == ["a"] * n + ["b"] * n
        assert list(runs[0]) == ["id", "begin", "end", "channel", "score"]
        flagged = {(row["id"], row["time"]) for row in found if row["flag"] == "1"}
        within = {
            (row["id"], row["time"]) for row in found for run in runs
            if row["id"] == run["id"] and run["begin"] <= row["time"] <= run["end"]
        }  # fmt: skip
        assert flagged == within
    stored = (tmp_path / "run" / "uses" / "anomaly" / "anomalies.csv").read_text().splitlines()
    assert len(stored) == 1 + len(runs)  # those of the test part


def test_other_series_have_windows_of_the_run(tmp_path):
    table(tmp_path / "t.csv")
    config = small(f"series:{tmp_path}/t.csv", **COLUMNS, **(FAST | {"data__window": 0}))
    run = trainer(config)
    (tmp_path / "new.csv").write_text(
        "\n".join(["c1,sensor,c0,time", *(f"{i % 7},x,{i % 40},{i}" for i in range(120))])
    )
    model = trained(run)
    rows = stream.read(f"series:{tmp_path}/new.csv", run.experiment.config, run.data.spec, model.take)
    (batch,) = list(rows.batches)
    width = run.data.spec.x.shape[0]
    assert batch.x.shape[1:] == (width, 2)
    np.testing.assert_allclose(run.data.spec.x.unscale(batch.x)[0], [[i % 40, i % 7] for i in range(width)], atol=1e-4)
    assert batch.ids[1] == "x 5"
    other = with_input(run.experiment.config, run.data.spec, f"series:{tmp_path}/t.csv")
    assert len(other.parts["test"]) == other.spec.test
