import subprocess
import sys

import jax
import numpy as np
import pytest
from scipy.special import expit
from sklearn.decomposition import PCA

import aejax
from aejax import prediction
from aejax.data import sources, stream
from aejax.errors import InputError
from aejax.uses import reconstruction
from common import ROOT, VAE, command, finish, images, one_line, small, table, trained, trainer


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return aejax.fit(images(), small(**VAE), workdir=tmp_path_factory.mktemp("run") / "vae")


@pytest.fixture(scope="module")
def tabular():
    return aejax.fit(table(), small(objective__likelihood="gaussian", objective__sigma=0.5))


def dense(w, x, part, i):
    return x @ w[part][f"layers_{i}"]["kernel"] + w[part][f"layers_{i}"]["bias"]


def forward(model, x):
    """mean, logvar and output of `small()` in NumPy."""
    w = jax.tree.map(np.asarray, model.params)
    h = dense(w, np.maximum(dense(w, x.reshape(len(x), -1), "encoder", 0), 0), "encoder", 1)
    mean, logvar = np.split(h, 2, 1) if h.shape[1] == 6 else (h, None)
    return mean, logvar, dense(w, np.maximum(dense(w, mean, "decoder", 0), 0), "decoder", 1)


def test_vae_equals_its_formulas_in_numpy(vae):
    x = images(20, seed=3)
    t = (x / 255).reshape(20, -1)
    mean, logvar, r = forward(vae, t)
    cross_entropy = -(t * np.log(expit(r)) + (1 - t) * np.log(expit(-r))).sum(1)
    kl = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).sum(1)
    np.testing.assert_allclose(vae.encode(x), mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(vae.decode(mean), expit(r).reshape(x.shape), rtol=1e-4)
    np.testing.assert_allclose(vae.reconstruct(x), expit(r).reshape(x.shape), rtol=1e-4)
    np.testing.assert_allclose(vae.score(x), cross_entropy + kl, rtol=1e-4)


def test_table_in_its_own_units(tabular):
    x = table(20, seed=3)
    mean, deviation = np.array(tabular.spec.x.mean), np.array(tabular.spec.x.deviation)
    scaled = (x - mean) / deviation
    code, _, r = forward(tabular, scaled)
    density = ((scaled - r) ** 2 / (2 * 0.25) + np.log(0.5) + np.log(2 * np.pi) / 2).sum(1)
    np.testing.assert_allclose(tabular.encode(x), code, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(tabular.reconstruct(x), r * deviation + mean, rtol=1e-4)
    np.testing.assert_allclose(tabular.score(x), density, rtol=1e-4)


@pytest.mark.parametrize("n", [0, 1, 2, 5, 1024, 1025, 2500])
def test_any_number_of_rows(vae, tabular, n):
    x = images(2500)
    for name, shape in (("encode", (3,)), ("reconstruct", (6, 5, 1)), ("score", ())):
        whole, part = getattr(vae, name)(x), getattr(vae, name)(x[:n])
        assert part.shape == (n, *shape)
        np.testing.assert_allclose(part, whole[:n], rtol=1e-4, atol=1e-5)
    assert vae.decode(np.zeros((n, 3))).shape == (n, 6, 5, 1)
    assert vae.sample(n).shape == (n, 6, 5, 1)
    assert tabular.reconstruct(table(2500)[:n]).shape == (n, 7)
    assert tabular.decode(np.zeros((n, 3))).shape == (n, 7)


def test_the_same_images_in_any_form(vae):
    x = images(10)
    codes = vae.encode(x)
    for form in (x[..., 0], x / 255, (x / 255).astype(np.float32), np.asfortranarray(x), x[::-1][::-1]):
        np.testing.assert_allclose(vae.encode(form), codes, rtol=1e-5, atol=1e-6)


def test_use_is_deterministic(vae):
    x = images(10)
    for name in ("encode", "reconstruct", "score"):
        np.testing.assert_array_equal(getattr(vae, name)(x), getattr(vae, name)(x))
    np.testing.assert_array_equal(vae.sample(5, seed=1), vae.sample(5, seed=1))
    assert not np.array_equal(vae.sample(5, seed=1), vae.sample(5, seed=2))


def test_load_gives_what_fit_gave(tmp_path, vae):
    config = small(**VAE)
    kept = aejax.fit(images(), config, workdir=tmp_path / "a")
    loaded = aejax.load(str(tmp_path / "a"))
    x = images(10)
    np.testing.assert_array_equal(kept.score(x), loaded.score(x))
    np.testing.assert_array_equal(vae.score(x), loaded.score(x))  # the same config, seed and data
    assert loaded.parameters == sum(leaf.size for leaf in jax.tree.leaves(loaded.params))


@pytest.mark.parametrize("name", ["aejax.load", "aejax.fit", "aejax.predict"])
def test_each_is_imported_on_its_own(name):
    """In a process that has imported nothing else: the modules do not need one another in a circle."""
    code = f"import aejax; aejax.{name.split('.')[1]}" if name != "aejax.predict" else "import aejax.predict"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)


@pytest.mark.slow
def test_fit_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    aejax.fit(images(), small(train__epochs=1))
    assert not list(tmp_path.iterdir())


def test_fit_with_labels_on_a_list():
    model = aejax.fit(table().tolist(), small(train__epochs=1), y=["a", "b"] * 50)
    assert model.spec.classes == ("a", "b")


@pytest.mark.parametrize(
    ("method", "x", "names"),
    [
        ("encode", np.zeros((2, 5, 6, 1)), ["(5, 6, 1)", "(6, 5, 1)"]),
        ("encode", np.zeros((6, 5)), ["rank"]),
        ("encode", np.full((2, 6, 5, 1), 2.0), ["[0, 1]"]),
        ("encode", [], ["rank"]),
        ("score", np.full((2, 6, 5, 1), np.nan), ["[0, 1]"]),
        ("decode", np.zeros((2, 4)), ["codes", "(rows, 3)"]),
        ("decode", np.zeros(3), ["codes"]),
        ("sample", -1, ["sample"]),
    ],
)
def test_bad_input(vae, method, x, names):
    with pytest.raises(InputError) as error:
        getattr(vae, method)(x)
    one_line(error, *names)


def test_bad_table(tabular):
    for x in (np.zeros((2, 6)), np.zeros(7), np.full((2, 7), np.nan), np.full((2, 7), "a")):
        with pytest.raises(InputError) as error:
            tabular.encode(x)
        one_line(error)
    with pytest.raises(InputError) as error:
        tabular.sample(3)
    one_line(error, "gaussian")


def test_load_of_what_is_no_run(tmp_path, vae):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError) as error:
            aejax.load(path)
        one_line(error, str(path))
    aejax.fit(images(), small(train__epochs=1), workdir=tmp_path / "a")
    with pytest.raises(InputError) as error:
        aejax.load(tmp_path / "a", checkpoint="best")
    one_line(error, "best")


@pytest.mark.slow
def test_averaged_parameters_are_used():
    config = small(optim__ema=0.99)
    data = sources.from_array(images(), config)
    model = aejax.fit(images(), config)
    _, _, r = forward(model, data.test["x"] / 255)
    np.testing.assert_allclose(model.reconstruct(data.test["x"]).reshape(r.shape), r, rtol=1e-3, atol=1e-5)


def test_pca_equals_the_singular_value_decomposition():
    rng = np.random.default_rng(0)
    train, test = (rng.standard_normal((n, 6)) @ np.diag([5, 4, 3, 2, 1, 0.5]) + 7 for n in (200, 50))
    assert not reconstruction.compresses(PCA(6, random_state=0).fit(train))
    pca = PCA(2, random_state=0).fit(train)
    assert reconstruction.compresses(pca)
    axes = np.linalg.svd(train - train.mean(0), full_matrices=False)[2][:2]
    expected = train.mean(0) + (test - train.mean(0)) @ axes.T @ axes
    found = reconstruction.pca_reconstruct(pca, test)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    error = reconstruction.pca_error(pca, ((part, ~np.isnan(part)) for part in (test[:20], test[20:])))
    assert error == pytest.approx(((test - expected) ** 2).sum(1).mean())
    # A decoder whose rows span the same plane is at no angle, whatever their lengths and order.
    kernel = np.array([[2.0, 1.0], [-1.0, 3.0]]) @ axes
    assert reconstruction.pca_angle(pca, {"layers_0": {"kernel": kernel}}) == pytest.approx(0, abs=1e-4)
    kernel[0] = np.linalg.svd(train - train.mean(0), full_matrices=False)[2][4]
    assert reconstruction.pca_angle(pca, {"layers_0": {"kernel": kernel}}) == pytest.approx(90, abs=1e-4)
    assert reconstruction.pca_angle(pca, {"layers_0": {"kernel": kernel}, "layers_1": {}}) is None


INPAINT = {"pair__name": "inpaint", "objective__likelihood": "bernoulli"}
CONDITIONAL = INPAINT | {"pair__inpaint__conditional": True, "model__bottleneck__name": "gaussian"}


def batches(*parts):
    return stream.Rows(iter([stream.Batch(range(len(x)), x) for x in parts]))


@pytest.mark.parametrize(("fields", "n"), [(INPAINT, None), pytest.param(CONDITIONAL, 3, marks=pytest.mark.slow)])
def test_completions_are_written_a_batch_at_a_time(tmp_path, fields, n):
    x, more = images(20), images(9, seed=1)
    model = trained(trainer(small(**fields), images()))
    completions = prediction.completions(model, tmp_path / "c.npz", n, 5)
    assert prediction.write(model, batches(x, more), "completions", tmp_path / "c.npz", completions) == 29
    expected = np.concatenate([model.complete(x, n=n or 1, seed=5), model.complete(more, n=n or 1, seed=6)], 1)
    with np.load(tmp_path / "c.npz") as archive:
        found = archive["completions"]
        assert len(archive["row"]) == 29
    np.testing.assert_array_equal(found, expected[0] if n is None else expected.swapaxes(0, 1))
    first = found if n is None else found[:, 0]
    kept = first == np.concatenate([x, more]).astype(np.float32) / np.float32(255)
    assert 0.5 < kept.mean() < 0.95  # a square of 3 x 3 of 6 x 5 pixels is filled in


@pytest.mark.parametrize(
    ("fields", "file", "n", "parts"),
    [
        ({}, "c.npz", None, ["--what=completions", "inpaint", "'reconstruct'"]),
        (INPAINT, "c.csv", None, ["c.csv", ".npz or .npy"]),
        (INPAINT, "c.npy", 2, ["--n=2", "one completion", "conditional"]),
    ],
)
def test_completions_that_cannot_be_are_one_line(tmp_path, fields, file, n, parts):
    model = trained(trainer(small(**fields), images()))
    with pytest.raises(InputError) as error:
        prediction.completions(model, tmp_path / file, n, 0)
    one_line(error, *parts)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_writes_completions(tmp_path):
    aejax.fit(images(), small(**CONDITIONAL, train__epochs=1), workdir=tmp_path / "run")
    np.save(tmp_path / "x.npy", images(7))
    flags = [f"--workdir={tmp_path / 'run'}", f"--input=npy:{tmp_path / 'x.npy'}", "--n=2"]
    output = f"--output={tmp_path / 'c.npy'}"
    finish(command(*flags, output, "--what=completions", module="aejax.predict"))
    assert np.load(tmp_path / "c.npy").shape == (7, 2, 6, 5, 1)
    _, err = finish(command(*flags, output, "--what=codes", module="aejax.predict"), code=2)
    assert err == "aejax: --n=2: is for --what=samples or completions\n"
