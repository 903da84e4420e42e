"""Folders of image files and TFDS sets; and that one data set gives the same numbers through each source."""

import io
import sys
import time
import types

import numpy as np
import pytest
from PIL import Image

from aejax import run as run_lib
from aejax.data import sources
from aejax.data.sources import tfds
from aejax.errors import InputError
from common import check, images, one_line, results, small
from test_sources import digit_like, write_idx


def load(source, **fields):
    return sources.load(small(source, **fields))


def fails(source, *names, **fields):
    with pytest.raises(InputError) as error:
        load(source, **fields)
    one_line(error, *names)


def save(path, x, **fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x).save(path, **fields)


def write_folder(folder, arrays):
    """arrays as train/LABEL/NUMBER.png and test/..."""
    for split in ("train", "test"):
        for i, (x, y) in enumerate(zip(arrays[f"x_{split}"], arrays[f"y_{split}"], strict=True)):
            save(folder / split / str(y) / f"{i:05}.png", x)
    return f"images:{folder}"


def write_tfds(folder, arrays, name="tiny", file_format="array_record"):
    """arrays as a set of TFDS, its images PNG files; without TensorFlow."""
    import tensorflow_datasets as library

    def examples(self, split):
        for i, (x, y) in enumerate(zip(arrays[f"x_{split}"], arrays[f"y_{split}"], strict=True)):
            stream = io.BytesIO()
            Image.fromarray(x[..., 0]).save(stream, "PNG")
            stream.seek(0)
            yield i, {"image": stream, "label": int(y), "id": i}

    def info(self):
        features = {
            "image": library.features.Image(shape=arrays["x_train"].shape[1:]),
            "label": library.features.ClassLabel(num_classes=int(arrays["y_train"].max()) + 1),
            "id": np.int64,
        }
        features = library.features.FeaturesDict(features)
        return library.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    methods = {
        "VERSION": library.core.Version("1.0.0"),
        "_info": info,
        "_split_generators": lambda self, _: {split: examples(self, split) for split in ("train", "test")},
        "_generate_examples": lambda self: None,
        "__module__": __name__,
    }
    kind = types.new_class(
        name.title(),
        (library.core.GeneratorBasedBuilder,),
        {"skip_registration": True},
        lambda body: body.update(methods),
    )
    kind(data_dir=folder, file_format=file_format).download_and_prepare()
    return f"tfds:{name}@{folder}"


@pytest.fixture
def arrays():
    found = digit_like(40)
    return {name: x if x.ndim < 3 else x.reshape(len(x), 4, 3, 1) for name, x in found.items()}


@pytest.mark.slow
def test_one_data_set_through_every_source_gives_the_same_results(tmp_path, arrays):
    # A folder is in the order of its paths, which begin with the label.
    order = {split: np.argsort(arrays[f"y_{split}"], kind="stable") for split in ("train", "test")}
    arrays = {name: x[order[name[2:]]] for name, x in arrays.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    found = {
        "idx": write_idx(tmp_path / "idx", {name: x.reshape(x.shape[:3]) for name, x in arrays.items()}),
        "npz": f"npz:{tmp_path}/a.npz",
        "images": write_folder(tmp_path / "images", arrays),
        "tfds": write_tfds(tmp_path / "tfds", arrays),
    }
    seen = {}
    for name, source in found.items():
        config = small(source, train__batch_size=8, uses__run=("reconstruction", "probe", "retrieval"))
        run_lib.run(config, tmp_path / "runs" / name)
        seen[name] = results(tmp_path / "runs" / name)
    assert seen["idx"] == seen["npz"] == seen["images"] == seen["tfds"]
    assert "test/precision_at_10" in seen["idx"]


# --- folders


def test_a_folder_without_classes_is_held_out_by_the_seed(tmp_path):
    x = images(20)
    for i in range(20):
        save(tmp_path / f"{i:02}.png", x[i])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._00.png").write_text("no image either")
    np.save(tmp_path / "x.npy", x)
    a, b = load(f"images:{tmp_path}"), load(f"npy:{tmp_path}/x.npy")
    assert a.spec == b.spec
    assert not a.spec.classes


def test_grey_and_colour_palette_and_jpeg(tmp_path):
    grey, colour = images(2, (8, 8, 1)), images(2, (8, 8, 3))
    save(tmp_path / "0.png", grey[0])
    save(tmp_path / "1.png", colour[0])
    Image.fromarray(np.indices((8, 8)).sum(0).astype(np.uint8) * 16).convert("P").save(tmp_path / "2.png")
    Image.fromarray(grey[1, ..., 0] > 100).save(tmp_path / "3.png")
    Image.fromarray(colour[1]).convert("RGBA").save(tmp_path / "4.png")  # opaque
    save(tmp_path / "5.JPG", np.full((8, 8, 3), 77, np.uint8))
    raw = sources.raw(small(f"images:{tmp_path}"))["x"]
    assert raw.shape == (6, 8, 8, 3)
    np.testing.assert_array_equal(raw[0], np.repeat(grey[0], 3, -1))
    np.testing.assert_array_equal(raw[1], colour[0])
    np.testing.assert_array_equal(raw[2, ..., 0], np.indices((8, 8)).sum(0) * 16)
    np.testing.assert_array_equal(raw[3, ..., 0], 255 * (grey[1, ..., 0] > 100))
    np.testing.assert_array_equal(raw[4], colour[1])
    assert np.abs(raw[5].astype(int) - 77).max() <= 1


@pytest.mark.parametrize("folders", [("train",), ("train", "val", "test"), ("train", "valid")])
def test_splits_that_are_not_known_are_no_classes(tmp_path, folders):
    for name in folders:
        save(tmp_path / name / "0.png", images(1)[0])
    fails(f"images:{tmp_path}", *folders, "config.data.validation_fraction")


def test_images_are_turned_as_their_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    x = images(2, (4, 6, 1))
    for i in range(2):
        save(tmp_path / f"{i}.png", x[i], exif=exif)
    raw = sources.raw(small(f"images:{tmp_path}"))["x"]
    np.testing.assert_array_equal(raw, np.rot90(x, -1, axes=(1, 2)))


def test_several_sizes_need_image_size(tmp_path):
    for i, side in enumerate((4, 8, 8)):
        save(tmp_path / f"{i}.png", np.full((side, 8, 1), 10 * i, np.uint8))
    fails(f"images:{tmp_path}", "1.png", "8 x 8", "4 x 8", "config.data.image_size")
    x = sources.raw(small(f"images:{tmp_path}", data__image_size=(5, 6)))["x"]
    assert x.shape == (3, 5, 6, 1)
    np.testing.assert_array_equal(x.reshape(3, -1), np.repeat([[0], [10], [20]], 30, 1))
    for size in ((5,), (0, 3), (2, 3, 4)):
        with pytest.raises(InputError) as error:
            check(small("digits", data__image_size=size))
        one_line(error, "config.data.image_size", "height")


def test_folders_that_cannot_be_read(tmp_path):
    fails(f"images:{tmp_path}/none", "no such file or folder")
    fails(f"images:{tmp_path}", ".png")
    (tmp_path / "a").mkdir()
    fails(f"images:{tmp_path}", ".png")
    save(tmp_path / "a" / "0.png", images(1)[0])
    save(tmp_path / "0.png", images(1)[0])
    fails(f"images:{tmp_path}", "beside sub-folders")


def test_train_with_classes_and_test_without(tmp_path):
    save(tmp_path / "train" / "a" / "0.png", images(1)[0])
    save(tmp_path / "test" / "0.png", images(1)[0])
    fails(f"images:{tmp_path}", "train and test")


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("keep", [0, 10, 60, -200])
def test_damaged_images(tmp_path, kind, keep):
    rng = np.random.default_rng(0)
    for i in range(3):
        save(tmp_path / f"{i}.{kind}", rng.integers(0, 256, (16, 16, 3), np.uint8))
    path = tmp_path / f"1.{kind}"
    path.write_bytes(path.read_bytes()[:keep])
    fails(f"images:{tmp_path}", f"1.{kind}", "cannot be read")


def test_images_that_would_lose_something(tmp_path):
    Image.fromarray(np.full((4, 4), 3000, np.float32)).save(tmp_path / "0.tif")
    fails(f"images:{tmp_path}", "0.tif", "floats")
    (tmp_path / "0.tif").unlink()
    Image.fromarray(np.full((4, 4, 4), 100, np.uint8)).save(tmp_path / "0.png")
    fails(f"images:{tmp_path}", "0.png", "transparent")


# --- TFDS


def test_tfds_is_read_without_tensorflow(tmp_path, arrays):
    data = load(write_tfds(tmp_path, arrays))
    assert "tensorflow" not in sys.modules
    np.testing.assert_array_equal(data.train["x"], arrays["x_train"])
    np.testing.assert_array_equal(data.test["y"], arrays["y_test"])
    assert data.spec.classes == ("0", "1", "2", "3")


def test_tfds_that_cannot_be_had_fails_at_once(tmp_path, arrays, monkeypatch):
    begin = time.perf_counter()
    fails(f"tfds:no_such_set@{tmp_path}", "config.data.source", "no_such_set")
    fails(f"tfds:mnits@{tmp_path}", "mnist")
    fails(f"tfds:mnist/other@{tmp_path}", "other")
    fails(f"tfds:a b@{tmp_path}", "a b")
    fails(f"tfds:mnist:9.9.9@{tmp_path}", "9.9.9")
    monkeypatch.setattr(tfds.importlib.util, "find_spec", lambda name: None)
    fails(f"tfds:mnist@{tmp_path}", "not prepared", "pip install tensorflow", "idx:DIR")
    monkeypatch.setattr(tfds.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(tfds, "HOST", ("127.0.0.1", 9))
    fails(f"tfds:mnist@{tmp_path}", "a network", "127.0.0.1", "idx:DIR")
    assert time.perf_counter() - begin < 10
    assert not list(tmp_path.iterdir())


def test_tfds_is_prepared_where_that_is_possible(tmp_path, arrays, monkeypatch):
    """TensorFlow and the network are played by the test: the set is written by what would have been downloaded."""
    import tensorflow_datasets as library

    monkeypatch.setattr(tfds.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(tfds, "_reachable", lambda: True)
    called = []

    def prepare(self, *, file_format):
        called.append(file_format)
        raise OSError("the disk\nis full")

    monkeypatch.setattr(library.core.DatasetBuilder, "download_and_prepare", prepare)
    fails(f"tfds:mnist@{tmp_path}", "cannot be prepared", "the disk is full")
    assert called == [library.core.FileFormat.ARRAY_RECORD]


def test_damaged_tfds(tmp_path, arrays):
    source = write_tfds(tmp_path, arrays)
    path = next(tmp_path.glob("tiny/1.0.0/*train.array_record*"))
    path.write_bytes(path.read_bytes()[:100])
    fails(source, "tfds:tiny", "array")


def test_tfds_without_images(tmp_path):
    import tensorflow_datasets as library

    class Numbers(library.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = library.core.Version("1.0.0")

        def _info(self):
            return library.core.DatasetInfo(builder=self, features=library.features.FeaturesDict({"v": np.int64}))

        def _split_generators(self, manager):
            return {"train": iter([(i, {"v": i}) for i in range(3)])}

        def _generate_examples(self):
            pass

    Numbers(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    fails(f"tfds:numbers@{tmp_path}", "no feature image", "v")
