import struct

import matplotlib.image
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from aejax import run as run_lib
from aejax.data import sources
from aejax.page import plots
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
        assert matplotlib.image.imread(file)[..., :3].std() > 0.01, f"{file.name} is empty"
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
    np.testing.assert_array_equal(found[::2, ::2], [[0, 0.25], [0.5, 1]])
    assert plots.mosaic(x, 2, gap=1).shape == (6, 6, 1)
