import struct

import matplotlib.image
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from aejax import plots
from aejax import run as run_lib
from aejax.data import sources
from aejax.uses.jacobian import plots as tangents
from common import VAE, images, metrics, small, table

MAPS = {"loss", "reconstructions", "codes"}


def events(folder):
    """The values that TensorBoard shows, (step, tag) -> value, of records of length, checksum, event and checksum."""
    found = {}
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + size])
            found |= {(event.step, value.tag): value for value in event.summary.value}
            content = content[16 + size :]
    return found


def slow(*values, id):
    return pytest.param(*values, id=id, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("x", "y", "fields", "names"),
    [
        slow(table(), None, {}, MAPS, id="table"),
        slow(table(), np.arange(100) % 3, VAE | {"objective__likelihood": "gaussian"}, MAPS, id="table vae"),
        slow(table(columns=2), None, {"model__bottleneck__size": 1}, MAPS - {"codes"}, id="one unit, table"),
        slow(images(), None, {"model__bottleneck__size": 1}, MAPS - {"codes"}, id="one unit"),
        slow(images(), np.arange(100) % 25, {"model__bottleneck__size": 2}, MAPS | {"grid"}, id="25 classes"),
        pytest.param(images(), np.full(100, -1), {"model__bottleneck__size": 2, "figures__box": (-1.0, 1.0, -2.0, 0.0)},
                     MAPS | {"grid"}, id="no labels"),
        slow(images(shape=(4, 7, 3)), None, VAE | {"data__validation_fraction": 0.1}, MAPS | {"samples"}, id="colour"),
        slow(images(shape=(4, 4, 2)), None, {}, MAPS, id="two channels"),
        slow(images(40), None, {"data__test_fraction": 0.025}, MAPS - {"codes"}, id="one test example"),
    ],
)  # fmt: skip
def test_every_kind_of_data_has_its_figures(tmp_path, x, y, fields, names):
    config = small(**fields, figures__enabled=True, figures__grid=3, train__epochs=1)
    run_lib.run(config, tmp_path / "a", sources.from_array(x, config, y))
    files = list((tmp_path / "a" / "figures").glob("*.png"))
    # Images show what the units of the first layer look for.
    assert {file.stem for file in files} == names | ({"filters"} if x.ndim > 2 else set())
    for file in files:
        drawn = matplotlib.image.imread(file)
        assert drawn[..., :3].std() > 0.01, f"{file.name} is empty"
        assert drawn[0, 0, 3] == 0, f"{file.name} has a background"
    board, lines = events(tmp_path / "a" / "tensorboard"), metrics(tmp_path / "a")
    last = lines[-1]["step"]
    shown = {tag: value.image for (step, tag), value in board.items() if value.HasField("image") and step == last}
    assert shown.keys() == {f"figures/{file.stem}" for file in files}
    for file in files:
        image, figure = shown[f"figures/{file.stem}"], matplotlib.image.imread(file)
        assert image.encoded_image_string == file.read_bytes()
        assert (image.height, image.width, image.colorspace) == figure.shape
    losses = {(line["step"], f"{line['split']}/loss"): line["loss"] for line in lines}
    assert {place: board[place].simple_value for place in losses} == pytest.approx(losses, rel=1e-6)


def test_mosaic_puts_images_in_rows():
    x = np.arange(3, dtype=np.float32)[:, None, None, None] * np.ones((3, 2, 2, 1), np.float32) / 4
    found = plots.mosaic(x, 2, gap=0)[..., 0]
    np.testing.assert_array_equal(found[::2, ::2], [[0, 0.25], [0.5, np.nan]])
    apart = plots.mosaic(x, 2, gap=1)[..., 0]
    assert apart.shape == (5, 5)
    assert np.isnan(apart[2]).all()
    np.testing.assert_array_equal(apart[:2, 3:], 0.25)


def test_far_points_lie_outside_the_window():
    points = np.random.default_rng(0).uniform(size=(357, 2))
    limits = plots.window(points)
    assert plots.outside(points, limits) == ""
    points = np.concatenate([points, [[50, 0.5], [0.5, -40], [60, 60]]])
    np.testing.assert_allclose(plots.window(points), limits, atol=0.35)
    assert plots.outside(points, plots.window(points)) == "3 of 360 points lie outside"
    assert plots.outside(points[:358], limits) == "1 of 358 points lies outside"


def test_maps_of_codes_say_what_they_show():
    random = np.random.default_rng(0)
    codes, scores = random.normal(size=(300, 20)), random.normal(size=(300, 2))
    figure = plots.code_maps(codes, scores, np.arange(300) % 3 - 1, ("a", "b" * 40))
    assert figure.axes[0].get_title().startswith("codes of 20 units: first 2 principal components")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b" * 21 + "…"]
    size = figure.axes[0].collections[0].get_sizes()[0]
    few = plots.code_maps(codes[:50], scores[:50], None, ()).axes[0].collections[0].get_sizes()[0]
    assert size == 7000 / 300 < few


def test_a_column_that_does_not_vary_has_no_bar():
    x = np.random.default_rng(0).normal(size=(30, 25)).astype(np.float32)
    x[:, 4] = 0
    r = np.where(np.arange(25) == 7, 3 * x, 0.5 * x)
    r[:, 4] = 0.01
    ax = plots.column_errors(x, {"reconstruction": r}, [f"c{i}" for i in range(25)]).axes[0]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert len(names) == plots.ROWS
    assert names[0] == "c7"
    assert "c4" not in names
    shares = ((x - r) ** 2).mean(0) / np.maximum(x.var(0), 1e-12)
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], [shares[int(n[1:])] for n in names], rtol=1e-4)
    assert ax.get_xlim() == (0, plots.FAR)
    assert ax.get_title() == "20 of 25 columns: largest errors\nbars beyond 2: 1 of 20"
    assert plots.column_errors(np.ones((5, 2)), {"reconstruction": np.zeros((5, 2))}, ()) is None


def test_the_curve_of_a_moved_image_is_smooth():
    image = images(1)[0] / 255.0
    np.testing.assert_allclose(tangents.shifted(image, 1.0)[:, 1:], image[:, :-1], atol=1e-9)
    np.testing.assert_allclose(tangents.shifted(image, 1.0)[:, :1], 0, atol=1e-9)
    step = 1e-3
    for whole in (
        -2,
        0,
        1,
    ):  # where linear interpolation has a corner: the sides' derivatives differ by as much as they are
        before, at, after = (tangents.shifted(image, whole + s) for s in (-step, 0, step))
        left, right = (at - before) / step, (after - at) / step
        assert np.abs(left - right).max() < 0.05 * np.abs(right).max()
    before, at, after = (tangents.shifted(image, s) for s in (-step, 0, step))
    np.testing.assert_allclose(tangents.derivative(image), (after - before) / (2 * step), atol=1e-6)
