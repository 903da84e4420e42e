import ast
import base64
import html
import html.parser
import io
import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import aejax
from aejax import config as config_lib
from aejax.data import sources
from aejax.errors import InputError
from aejax.page import report, results
from aejax.storage import metrics, run_dir
from aejax.training import plan
from aejax.uses import runner
from aejax.uses.data import Data
from common import CONFIGS, ROOT, change, command, finish, get_config, images, one_line, small, table

NASTY = "</script><b onclick='x()'>\"&"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

ROW = r"<td class=\"name\"><code>(.*?)</code></td><td class=\"number right\">(.*?)</td>"

pytestmark = pytest.mark.xdist_group("report")  # they share a fixture


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text of each script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(text)
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


def fields(likelihood="bernoulli"):
    # A code of 2 units that the images fill: the decoded images differ.
    return small(
        model__bottleneck__size=2, figures__enabled=True, optim__learning_rate=1e-2, train__epochs=25,
        objective__likelihood=likelihood,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on images, its model and its data."""
    folder = tmp_path_factory.mktemp("report") / f"a <run> & {NASTY[2:5]}"
    labels = np.array([NASTY, "b", "c"])[np.arange(100) % 3]
    model = aejax.fit(images(), fields(), y=labels, workdir=folder)
    return folder, model, sources.from_array(images(), fields(), labels)


@pytest.fixture(scope="module")
def tabular(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "table"
    return folder, aejax.fit(table(), fields(likelihood="squared_error"), workdir=folder)


@pytest.fixture(scope="module")
def page(trained):
    return Page((trained[0] / run_dir.REPORT).read_text())


def tiles(page, shape):
    """The decoded images [side, side, H, W, C] that the page holds."""
    stored = page.data["map"]["image"]
    assert (stored["height"], stored["width"]) == shape[:2]
    side = page.data["map"]["side"]
    mosaic = np.asarray(Image.open(io.BytesIO(base64.b64decode(stored["source"].partition(",")[2]))))
    return mosaic.reshape(side, shape[0], side, shape[1], shape[2]).swapaxes(1, 2)


def raster(page):
    x0, x1, y0, y1 = page.data["map"]["box"]
    side = page.data["map"]["side"]
    return np.stack(np.meshgrid(np.linspace(x0, x1, side), np.linspace(y1, y0, side)), -1)


def test_nothing_is_fetched_and_everything_is_escaped(trained, page):
    text = (trained[0] / run_dir.REPORT).read_text()
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, name)
        assert "style" not in attributes or "url(" not in attributes["style"]
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert NASTY not in text
    assert "onclick='x()'" not in text.replace("\\u0027", "?")
    assert len(page.scripts) == 2
    assert ("b", {"onclick": "x()"}) not in page.tags
    meta = [attributes for tag, attributes in page.tags if tag == "meta"]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in meta
    assert any("default-src 'none'" in attributes.get("content", "") for attributes in meta)
    assert "prefers-color-scheme: dark" in text


def test_the_same_run_gives_the_same_page(trained):
    folder, _, _ = trained
    assert report.page(folder) == report.page(folder) == (folder / run_dir.REPORT).read_text()


def test_numbers(trained):
    folder, _, _ = trained
    text = report.page(folder).replace("<wbr>", "")
    measured = run_dir.read_results(folder)
    assert f"<b>{results.number(measured['test/squared_error'])}</b>" in text
    assert f"PCA {results.number(measured['test/pca_squared_error'])}<" in text
    rows = re.findall(r"<td class=\"name\"><code>(.*?)</code></td><td class=\"number right\">", text)
    assert rows == sorted(measured)
    differences = dict(re.findall(r"<code>(.*?)</code></td><td><code>(.*?)</code></td><td>", text))
    assert differences["model.encoder.widths"] == "8"
    assert differences["train.epochs"] == "25"
    assert "seed" not in differences
    assert trained[2].spec.digest in text


def test_headline():
    measured = {"test/elbo": -99.0, "test/loss": 99.0, "test/squared_error": 3.0, "test/pca_squared_error": 4.0,
                "test/psnr": 20.0, "test/input_psnr": 11.0, "test/probe_error": 2.0, "validation/probe_error": 1.9,
                "stage_0/reconstruction": 5.0, "prior/mmd": 0.3, "prior/samples/mmd": 0.01, "seconds": 9.0,
                "parameters": 7.0, "epochs": 1.0, "examples_per_second": 8.0}  # fmt: skip
    expected = ["test/elbo", "test/squared_error", "test/psnr", "test/probe_error", "prior/mmd"]
    assert results.headline(measured) == expected
    assert results.baselines("test/squared_error", measured) == {"PCA": "test/pca_squared_error"}
    assert results.baselines("test/psnr", measured) == {"input": "test/input_psnr"}
    assert results.baselines("prior/mmd", measured) == {"samples": "prior/samples/mmd"}
    few = {"pretrained_100/error": 13.0, "pretrained_100/error_deviation": 1.0, "random_100/error": 23.0}
    assert results.headline(few) == ["pretrained_100/error"]
    assert results.baselines("pretrained_100/error", few) == {"random parameters": "random_100/error"}
    assert results.headline({"random_100/error": 23.0}) == ["random_100/error"]


def test_curves(trained, page):
    lines = metrics.read(trained[0])
    loss = page.data["curves"][0]
    assert loss["name"] == "loss = reconstruction"
    for split in ("train", "test"):
        expected = [(m["epoch"], m["loss"]) for m in lines if m["split"] == split]
        np.testing.assert_allclose(loss["lines"][split], expected, rtol=1e-5)
    names = [curve["name"] for curve in page.data["curves"]]
    assert names == ["loss = reconstruction", "squared error", "psnr", "ssim"][: len(names)]
    assert "learning rate" in [curve["name"] for curve in page.data["diagnostics"]]


def test_long_curves_are_thinned():
    lines = [{"step": i, "epoch": i, "split": "train", "loss": float(i)} for i in range(2001)]
    points = report._curves(lines, ["loss"])[0]["lines"]["train"]
    assert len(points) <= report.CURVE
    assert points[-1] == [2000, 2000.0]
    assert points == sorted(points)


def test_map_is_the_model(trained, page):
    _, model, data = trained
    stored = page.data["map"]
    codes = model.encode(data.test["x"])
    np.testing.assert_allclose(stored["codes"], codes, rtol=1e-4, atol=1e-4)  # of few codes none lies outside
    assert stored["labels"] == data.test["y"].tolist()
    assert stored["classes"] == list(data.spec.classes)
    places = raster(page)
    expected = model.decode(places.reshape(-1, 2)).reshape(*places.shape[:2], 6, 5, 1)
    found = tiles(page, (6, 5, 1))
    assert np.abs(found - 255.0 * expected).max() < 1
    assert np.ptp(found.astype(int), axis=(0, 1)).max() > 50  # the images differ


def test_map_of_a_table(tabular):
    folder, model = tabular
    page = Page((folder / run_dir.REPORT).read_text())
    stored = page.data["map"]["columns"]
    values = np.frombuffer(base64.b64decode(stored["values"]), "<f4").reshape(48 * 48, 7)
    np.testing.assert_allclose(values, model.decode(raster(page).reshape(-1, 2)), rtol=1e-4, atol=1e-3)
    assert stored["names"] == list("0123456")
    assert page.data["map"]["labels"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "upsample", "has"), [(3, "transpose", False), (2, "unpool", True)], ids=["3 units", "switches"]
)
def test_map_where_nothing_can_be_decoded(tmp_path, size, upsample, has):
    config = get_config("conv", model__conv__channels=(2,), model__conv__upsample=upsample,
                        model__bottleneck__size=size, train__epochs=1, train__batch_size=32)  # fmt: skip
    aejax.fit(images(), config, workdir=tmp_path / "run")
    page = Page((tmp_path / "run" / run_dir.REPORT).read_text())
    assert (page.data["map"] is not None) == has
    assert not has or page.data["map"]["image"] is None
    assert any(attributes.get("id") == "codes" for _, attributes in page.tags) == has


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_differences_are_those_from_the_default(path):
    config = config_lib.shipped(path.stem)
    given = {row["name"]: row["value"] for row in report._differences(config)}
    assert given.get("name", "ae") == path.stem
    assert ("pretrain.widths" in given) == bool(config.pretrain.widths)
    config.pretrain.widths = ()  # the same network from random weights: its stages are not trained
    assert not any(row["name"].startswith("pretrain.") for row in report._differences(config))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_command_of_a_shipped_config_is_its_name(path):
    config = plan.resolve(config_lib.shipped(path.stem))
    assert report.reproduce(config) == f"python -m aejax.main --config={path.stem}:{config.data.source}"


@pytest.mark.slow
def test_the_command_gives_the_config():
    config = change(
        config_lib.shipped("denoising", "csv:my file.csv"), seed=3, model__encoder__widths=(7,), name="own",
        model__encoder__activation="tanh", model__decoder__activation="relu", objective__l1__weight=0.5,
        data__label_column="a <b>", data__standardize=False,
    )  # fmt: skip
    words = shlex.split(report.reproduce(config))
    assert words[:3] == ["python", "-m", "aejax.main"]
    out, _ = finish(command(*words[3:], "--print_config"))
    lines = [line.partition("  # ")[0].partition(" = ") for line in out.splitlines()]
    made = config_lib.flatten({path: ast.literal_eval(value) for path, _, value in lines})
    expected = config_lib.identity(plan.resolve(config))
    assert {path: made[path] for path in expected} == expected


@pytest.mark.slow
def test_command(trained, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained[0], folder)
    (folder / run_dir.REPORT).unlink()

    def run(*arguments, code):
        process = subprocess.run([sys.executable, "-m", "aejax.report", *arguments], cwd=ROOT, capture_output=True,
                                 text=True, check=False, timeout=300)  # fmt: skip
        assert process.returncode == code, process.stderr
        return process.stderr

    assert run(f"--workdir={folder}", code=0) == ""
    assert (folder / run_dir.REPORT).read_text() == report.page(folder)
    assert "is no run directory" in run(f"--workdir={tmp_path}", code=2)
    assert "--workdir" in run(code=2)


def test_numbers_in_names_of_results_are_in_order():
    names = ["test/loss", "x/step_0.7/psnr", "x/step_1/psnr", "x/step_1.4/psnr", "x/units_2/psnr", "x/units_16/psnr"]
    assert results.named(dict.fromkeys(reversed(names), 0.0)) == names


def test_a_use_explains_its_own_numbers():
    assert "images clipped to [0, 1]" in results.about("restoration/median/psnr")
    assert "of the output" in results.about("test/psnr")


def test_what_uses_measured_and_drew_is_in_the_page(trained, tmp_path):
    folder, model, data = tmp_path / "copy", *trained[1:]
    shutil.copytree(trained[0], folder)
    before = rows(folder)
    found = runner.run(model, Data(model.experiment, data), ("probe", "jacobian"), folder, model.config.uses)
    assert set(found) == {"test/probe_error", "validation/probe_error", "test/jacobian_norm"}
    after = rows(folder)
    assert after == before | {name: results.number(value) for name, value in found.items()}

    drawn = {file.stem: file for file in (folder / run_dir.USES / "jacobian" / run_dir.FIGURES).glob("*.png")}
    assert set(drawn) == {"singular_values", "tangents", "translation"}
    Image.new("RGB", (20, 10), "red").save(tmp_path / "own_figure.png")
    (folder / run_dir.USES / "own" / run_dir.FIGURES).mkdir(parents=True)
    drawn["own_figure"] = folder / run_dir.USES / "own" / run_dir.FIGURES / "own_figure.png"
    shutil.move(tmp_path / "own_figure.png", drawn["own_figure"])
    text = report.page(folder)
    shown = [attributes.get("src") for tag, attributes in Page(text).tags if tag == "img"]
    for name, file in drawn.items():
        assert f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}" in shown
        assert report.CAPTIONS.get(name, "own figure") in html.unescape(text)

    # What is measured again later counts.
    (folder / run_dir.USES / "probe" / run_dir.RESULTS).write_text('{"test/probe_error": 12.5}')
    assert rows(folder) == before | {
        "test/probe_error": results.number(12.5),
        "test/jacobian_norm": after["test/jacobian_norm"],
    }
    (folder / run_dir.USES / "probe" / run_dir.RESULTS).write_text('{"test/pro')
    with pytest.raises(InputError) as error:
        report.page(folder)
    one_line(error, "probe/results.json", "cannot be read")


def rows(folder):
    """The results that the page lists, as it shows them."""
    text = report.page(folder)
    return dict(re.findall(ROW, text.replace("<wbr>", "")))


def test_bad_input(trained, tmp_path):
    with pytest.raises(InputError) as error:
        report.write(tmp_path)
    one_line(error, "no run directory")
    folder = tmp_path / "copy"
    shutil.copytree(trained[0], folder)
    (folder / run_dir.RESULTS).unlink()
    with pytest.raises(InputError) as error:
        report.write(folder)
    one_line(error, "not finished")


# --- in a browser -------------------------------------------------------------------------------------


@pytest.fixture
def browse():
    """(file, **context) -> a page in headless Chromium without a network, and what it complained of."""
    playwright = pytest.importorskip("playwright.sync_api", exc_type=ImportError)
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def start(file, **context):
            page = browser.new_context(offline=True, **context).new_page()
            complaints, fetched = [], []
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda request: fetched.append(request.url))
            page.goto(file.as_uri())
            page.wait_for_function("!document.getElementById('codes') || document.documentElement.dataset.map")
            assert [url for url in fetched if not url.startswith("data:")] == [file.as_uri()]
            return page, complaints

        yield start
        browser.close()


def decoded(page, shape):
    """The decoded image on the screen, one pixel for each of its own."""
    url = page.evaluate("document.getElementById('decoded').toDataURL()")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("L"))
    zoom = shown.shape[0] // shape[0]
    assert shown.shape == (shape[0] * zoom, shape[1] * zoom)
    return shown[zoom // 2 :: zoom, zoom // 2 :: zoom]


PHONE = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "device_scale_factor": 2,
         "is_mobile": True, "has_touch": True}  # fmt: skip
DESKTOP = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"}


@pytest.mark.parametrize("context", [PHONE, DESKTOP], ids=["phone, dark", "desktop, light"])
def test_browser(trained, page, browse, context):
    shown, complaints = browse(trained[0] / run_dir.REPORT, **context)
    stored = tiles(page, (6, 5, 1))[..., 0]
    side = len(stored)
    phone = "is_mobile" in context

    def point(locator, x, y):
        locator.scroll_into_view_if_needed()
        box = locator.bounding_box()
        at = box["x"] + x * box["width"], box["y"] + y * box["height"]
        shown.touchscreen.tap(*at) if phone else shown.mouse.move(*at)

    canvas = shown.locator("#codes")
    for x, y in ((0.1, 0.2), (0.75, 0.9), (0.5, 0.5)):
        point(canvas, x, y)
        column, row = round(x * (side - 1)), round(y * (side - 1))
        near = stored[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].reshape(-1, 6, 5).astype(int)
        found = decoded(shown, (6, 5)).astype(int)
        assert min(np.abs(tile - found).max() for tile in near) <= 1, (x, y)
    before = decoded(shown, (6, 5))
    canvas.focus()
    for _ in range(side):
        shown.keyboard.press("ArrowLeft")
    assert np.abs(decoded(shown, (6, 5)).astype(int) - before).max() > 0
    assert "code " in shown.locator("#where").inner_text()

    # A label is text, and chooses its class.
    button = shown.locator("#legend button").first
    assert button.inner_text() == NASTY
    button.click()
    assert button.get_attribute("aria-pressed") == "true"

    readout = shown.locator("#charts output").first
    assert readout.inner_text().startswith("epoch 25")
    point(shown.locator("#charts svg").first, 0.5, 0.5)
    epoch = float(readout.inner_text().split()[1])
    assert 10 < epoch < 16
    line = page.data["curves"][0]["lines"]["train"]
    value = next(v for e, v in line if e == epoch)
    assert f"{value:.4g}".rstrip("0") in readout.inner_text()
    shown.locator("#logarithm").click()
    assert shown.locator("#logarithm").get_attribute("aria-pressed") == "true"

    dark = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", dark))) < 150) == phone
    assert shown.evaluate("document.documentElement.scrollWidth") <= context["viewport"]["width"]
    assert shown.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
    assert complaints == []


def test_browser_with_a_table(tabular, browse):
    shown, complaints = browse(tabular[0] / run_dir.REPORT, **DESKTOP)
    numbers = shown.locator("#columns .number")
    before = numbers.all_inner_texts()
    assert len(before) == 7
    box = shown.locator("#codes").bounding_box()
    shown.mouse.move(box["x"] + 2, box["y"] + 2)
    first = np.frombuffer(base64.b64decode(Page(shown.content()).data["map"]["columns"]["values"]), "<f4")[:7]
    np.testing.assert_allclose([float(text) for text in numbers.all_inner_texts()], first, rtol=1e-3)
    assert numbers.all_inner_texts() != before
    assert complaints == []
