"""Folders and files of images as people have them."""

import numpy as np
import pytest
from PIL import Image

from aejax import run
from aejax.data import sources
from aejax.errors import InputError
from common import images, one_line, small

X = images(12, (9, 8, 1))


def save(folder, name, x, **fields):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x.squeeze()).save(path, **fields)


def load(folder, **fields):
    return sources.load(small(f"images:{folder}", **({"train__batch_size": 2} | fields)))


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Train", "Test"), ("training", "testing")])
def test_splits_of_any_name_and_classes_of_the_test_split(tmp_path, train, test):
    """The layout of MVTec AD: normal images in train, all kinds in test, masks beside them."""
    for i in range(6):
        save(tmp_path, f"{train}/good/{i}.png", X[i])
        save(tmp_path, f"{test}/{'good' if i % 2 else 'crack'}/{i}.png", X[6 + i])
        save(tmp_path, f"ground_truth/crack/{i}_mask.png", X[i])
    data = load(tmp_path)
    assert (data.spec.train, data.spec.test, data.spec.classes) == (6, 6, ("crack", "good"))
    assert data.notes == ("left out: ground_truth",)
    np.testing.assert_array_equal(data.train["x"], X[:6])


def test_masks_beside_images_are_left_out(tmp_path):
    for i in range(6):
        save(tmp_path, f"images/{i}.png", X[i])
        save(tmp_path, f"masks/{i}.png", X[i])
    data = load(tmp_path)
    assert data.spec.train + data.spec.test == 6
    assert data.notes == ("left out: masks",)


@pytest.mark.parametrize("folders", [("train", "test", "extra"), ("train", "valid"), ("masks", "one", "two")])
def test_folders_that_may_be_splits_or_classes_are_refused(tmp_path, folders):
    for folder in folders:
        save(tmp_path, f"{folder}/0.png", X[0])
    with pytest.raises(InputError) as error:
        load(tmp_path)
    one_line(error, *folders)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp", "gif"])
@pytest.mark.parametrize("resident", ["true", "false"])
def test_formats(tmp_path, suffix, resident):
    lossless = {"webp": {"lossless": True}, "jpg": {"quality": 95}}.get(suffix, {})
    for i in range(6):
        colour = np.repeat(X[i], 3, -1) if suffix == "webp" else X[i]
        save(tmp_path, f"{i}.{suffix}", colour, **lossless)
    data = load(tmp_path, data__resident=resident)
    found = np.concatenate([np.asarray(data.train["x"]), data.test["x"]])[..., :1].astype(int)
    order = np.argsort(np.r_[np.setdiff1d(np.arange(6), held := np.random.RandomState(0).permutation(6)[:1]), held])
    assert np.abs(found[order] - X[:6]).max() <= (24 if suffix == "jpg" else 0)


def test_grey_images_of_16_bits_are_floats(tmp_path):
    deep = (np.arange(72).reshape(9, 8) * 900).astype(np.uint16)
    for i in range(4):
        save(tmp_path, f"{i}.png", deep)
    for resident in ("true", "false"):
        data = load(tmp_path, data__resident=resident)
        assert data.spec.x.dtype == "float32"
        np.testing.assert_allclose(np.asarray(data.test["x"])[0, ..., 0], deep / 65535, rtol=1e-6)
    save(tmp_path, "9.png", X[0])
    assert load(tmp_path, data__resident="true").spec.x.dtype == "float32"


def test_transparent_images_need_a_background(tmp_path):
    x = np.zeros((6, 6, 4), np.uint8)
    x[:3] = 100, 100, 100, 255
    for i in range(4):
        save(tmp_path, f"{i}.png", x)
    with pytest.raises(InputError) as error:
        load(tmp_path)
    one_line(error, "transparent", "data.background=255,255,255")
    data = load(tmp_path, data__background=(255, 0, 0))
    assert data.test["x"][0, 0, 0].tolist() == [100, 100, 100]
    assert data.test["x"][0, 5, 0].tolist() == [255, 0, 0]


def test_files_that_are_no_images_are_said(tmp_path):
    for i in range(4):
        save(tmp_path, f"{i}.png", X[i])
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden").write_text("x")
    assert load(tmp_path).notes == (f"left out in {tmp_path.name}: 1 .txt",)


def test_a_table_of_paths(tmp_path):
    for i in range(6):
        save(tmp_path, f"files/{i}.png", X[i])
    lines = "\n".join(f"files/{i}.png,{'ab'[i % 2]}" for i in range(6))
    (tmp_path / "list.csv").write_text("path,kind\n" + lines)
    data = sources.load(small(f"images:{tmp_path / 'list.csv'}", data__label_column="kind", train__batch_size=2))
    assert data.spec.classes == ("a", "b")
    assert data.notes == ("paths of the column path",)
    (tmp_path / "list.csv").write_text("path,kind\nfiles/nothing.png,a\n")
    with pytest.raises(InputError) as error:
        sources.load(small(f"images:{tmp_path / 'list.csv'}"))
    one_line(error, "nothing.png", "does not exist")


@pytest.mark.slow
def test_photographs_binarised_by_coin_flips_are_said(tmp_path, capsys):
    for i in range(6):
        save(tmp_path, f"x/{i}.png", X[i])
    config = small(f"images:{tmp_path / 'x'}", data__binarize="dynamic", objective__likelihood="bernoulli",
                   train__batch_size=2)  # fmt: skip
    run.run(config, tmp_path / "run")
    assert "coin flip, anew at every step; data.binarize=none keeps them" in capsys.readouterr().out
