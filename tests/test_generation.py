"""Generation: measures by closed forms, samplers of known densities, storage, predict, wrong input."""

import csv
import json

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats
from sklearn.metrics.pairwise import polynomial_kernel

import aejax
from aejax import prediction
from aejax import run as run_lib
from aejax.data import sources
from aejax.errors import InputError
from aejax.page import report, results
from aejax.storage import config_json, saved
from aejax.uses import Skip, runner
from aejax.uses.data import Data
from aejax.uses.generation import measure as generation
from aejax.uses.generation import samplers
from aejax.uses.generation.flow import mixture_velocity
from aejax.uses.generation.sample_quality import frechet_distance, kernel_distance, precision_and_recall
from aejax.uses.generation.view import slerp
from common import VAE, command, finish, images, one_line, small, table, trained, trainer

HOW = samplers.Settings(components=3, bandwidth=0.0, flow_steps=20, flow_width=8, seed=0)
QUICK = {"flow_steps": 5, "flow_width": 8, "components": 2}


def model(**fields):
    """A model without training, whose code has three units, and ten classes."""
    return trained(trainer(small(**fields), images(), (np.arange(100) % 3).tolist()))


def test_frechet_distance_equals_the_root_of_a_product():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((50, 4)), rng.standard_normal((60, 4)) @ rng.standard_normal((4, 4)) + 1
    first, second = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * linalg.sqrtm(first @ second).real)
    assert frechet_distance(a, b) == pytest.approx(expected)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a[:3], a[:3] + 2) == pytest.approx(16, rel=1e-6)  # a singular covariance
    assert frechet_distance(a[:, :1], 3 * a[:, :1]) == pytest.approx((2 * a[:, 0].mean()) ** 2 + 4 * first[0, 0])


def test_kernel_distance_is_unbiased_with_a_cubic_kernel():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((30, 5)), rng.standard_normal((40, 5)) + 0.5
    within = [polynomial_kernel(x, degree=3, gamma=1 / 5, coef0=1) for x in (a, b)]
    expected = sum((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in within)
    expected -= 2 * polynomial_kernel(a, b, degree=3, gamma=1 / 5, coef0=1).mean()
    assert kernel_distance(a, b) == pytest.approx(expected)
    draws = [kernel_distance(*rng.standard_normal((2, 20, 3))) for _ in range(400)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / 20


def test_precision_and_recall_by_brute_force():
    rng = np.random.default_rng(2)
    real, made = rng.standard_normal((40, 2)), 0.5 * rng.standard_normal((1100, 2))  # more than a block
    made = made[:1050]

    def inside(points, of, k=3):
        radii = [np.sort(np.linalg.norm(of - x, axis=1))[k] for x in of]  # place 0: the point itself
        return np.mean([(np.linalg.norm(of - p, axis=1) <= radii).any() for p in points])

    expected = inside(made, real), inside(real, made)
    assert precision_and_recall(real, made, 3) == pytest.approx(expected)
    assert precision_and_recall(real, real + 100, 3) == (0, 0)


def test_slerp_keeps_the_length_and_divides_the_angle():
    a, b = np.array([2.0, 0, 0]), np.array([0, 2.0, 0])
    found = slerp(a, b, 1 / 3)
    np.testing.assert_allclose(found, 2 * np.array([np.cos(np.pi / 6), np.sin(np.pi / 6), 0]), atol=1e-12)
    np.testing.assert_allclose(slerp(a, a, 0.3), a)


def test_samples_of_mixtures_have_the_moments_of_the_codes():
    rng = np.random.default_rng(3)
    own = model()
    y = rng.integers(0, 3, 3000)
    codes = rng.standard_normal((3000, 3)) @ rng.standard_normal((3, 3)) + 8.0 * np.eye(3)[y]
    for name in ("gaussian", "gmm", "kde"):
        sampler = samplers.fit(own, codes, y, name, HOW)
        drawn = sampler.codes(20_000, seed=1)
        np.testing.assert_allclose(drawn.mean(0), codes.mean(0), atol=0.2)
        np.testing.assert_allclose(np.cov(drawn.T), np.cov(codes.T), atol=0.06 * np.cov(codes.T).max())
        of_class = sampler.codes(5000, seed=2, label="1")
        np.testing.assert_allclose(of_class.mean(0), codes[y == 1].mean(0), atol=0.15)
        np.testing.assert_array_equal(sampler.codes(7, seed=5), sampler.codes(7, seed=5))
    # Three separate Gaussians are found by the mixture alone: its density of the codes is larger.
    far = {name: samplers.fit(own, codes, None, name, HOW).codes(3000) for name in ("gaussian", "gmm")}
    gaps = {
        name: np.min(np.linalg.norm(x[:, None] - codes[None, :500], axis=2), axis=1).mean() for name, x in far.items()
    }
    assert gaps["gmm"] < 0.8 * gaps["gaussian"]


@pytest.mark.slow
def test_bandwidth_is_near_the_best_one_in_closed_form():
    x = np.random.default_rng(4).standard_normal((4000, 1))
    silverman = 1.06 * len(x[: 4000 - 800]) ** -0.2
    assert samplers.bandwidth(x, 0) == pytest.approx(silverman, rel=0.5)
    scored = stats.gaussian_kde(x[:, 0], samplers.bandwidth(x, 0)).logpdf(x[:200, 0]).mean()
    assert scored > stats.norm.logpdf(x[:200, 0]).mean() - 0.05


@pytest.mark.slow
def test_flow_matching_finds_separate_groups_and_their_labels():
    rng = np.random.default_rng(5)
    own, y = model(), rng.integers(0, 3, 3000)
    codes = 0.3 * rng.standard_normal((3000, 3)) + 3.0 * np.eye(3)[y] + 5
    sampler = samplers.fit(own, codes, y, "flow", HOW._replace(flow_steps=1500, flow_width=64))
    centres = 3.0 * np.eye(3) + 5
    drawn = sampler.codes(2000, seed=1)
    squares = ((drawn[:, None] - centres[None]) ** 2).sum(-1)
    assert (squares.min(1) < 9 * 3 * 0.09).mean() > 0.9
    np.testing.assert_allclose(np.bincount(squares.argmin(1), minlength=3) / 2000, 1 / 3, atol=0.06)
    of_class = sampler.codes(500, seed=1, label="2")
    assert (((of_class[:, None] - centres[None]) ** 2).sum(-1).argmin(1) == 2).mean() > 0.95


@pytest.mark.slow
def test_an_untrained_flow_draws_from_a_mixture():
    rng = np.random.default_rng(6)
    codes = rng.standard_normal((900, 2)) @ np.array([[1.0, 0.8], [0.0, 0.3]]) + rng.integers(0, 2, (900, 1)) * 9.0 + 5
    sampler = samplers.fit(model(model__bottleneck__size=2), codes, None, "flow", HOW._replace(flow_steps=1))
    drawn = sampler.codes(9000, seed=1)
    np.testing.assert_allclose(drawn.mean(0), codes.mean(0), atol=0.4)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(codes.T), rtol=0.05)
    assert (np.abs(drawn[:, 0] - codes[:, 0].mean()) < 1.5).mean() < 0.02  # between the groups


def test_the_velocity_of_a_mixture_is_that_of_its_integral():
    weights, means, deviations = np.array([0.3, 0.7]), np.array([-1.0, 2.0]), np.array([0.5, 1.5])
    fixed = {
        "means": jnp.asarray(means[:, None]),
        "variances": jnp.asarray(deviations[:, None] ** 2),
        "axes": jnp.ones((2, 1, 1)),
        "shares": jnp.log(jnp.asarray([weights, [1.0, 1e-30]])),
    }
    points = np.linspace(-12, 14, 20_001)
    for label, shares in ((0.0, weights), (1.0, np.array([1.0, 0.0]))):
        for x, t in ((0.3, 0.5), (-1.0, 0.9), (2.0, 0.0)):
            density = stats.norm.pdf(points[:, None], means[None], deviations[None]) @ shares
            density = density * stats.norm.pdf(x, t * points, 1 - t)
            expected = (density * (points - x) / (1 - t)).sum() / density.sum()
            given = jnp.full((1, 1), x), jnp.full((1, 1), t), jnp.full((1, 1), label)
            assert float(mixture_velocity(fixed, *given)[0, 0]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_a_narrow_kernel_copies_the_training_examples():
    run = trainer(small(model__bottleneck__size=2, model__encoder__widths=(), train__epochs=1), images(400))
    own, data = trained(run), Data(run.experiment, run.data)
    decoded = own.decode(own.encode(run.data.train["x"]))  # what a copy of a code decodes to
    codes = samplers.posterior(own, run.data.train["x"], 0)
    ratios = {}
    for name, h in (("narrow", 1e-4), ("wide", 1.0)):
        drawn = samplers.fit(own, codes, None, "kde", HOW._replace(bandwidth=h)).sample(40)
        gaps = np.linalg.norm(drawn.reshape(40, 1, -1) - decoded.reshape(1, len(decoded), -1), axis=2).min(1)
        ratios[name] = gaps.mean()
    assert ratios["narrow"] < 0.01 * ratios["wide"]
    result = generation.measure(own, data, samplers=("kde",), bandwidth=0.5)
    assert result.numbers["generation/memorisation"] == result.numbers["generation/kde/memorisation"]


@pytest.mark.slow
def test_numbers_figures_and_baselines():
    run = trainer(small(), images(), (np.arange(100) % 3).tolist())
    result = generation.measure(trained(run), Data(run.experiment, run.data), **QUICK)
    terms = {"fid", "kid", "precision", "recall", "memorisation"}
    names = {f"generation/{s}/{t}" for s in (*samplers.NAMES, "pca/gaussian", "pca/gmm") for t in terms}
    names |= {"generation/test_split/fid", "generation/test_split/kid", "generation/memorisation"}
    assert names == set(result.numbers)
    assert all(np.isfinite(value) for value in result.numbers.values())
    assert "samples" in results.about("generation/gmm/precision")
    assert set(results.baselines("generation/gmm/fid", result.numbers)) == {"pca"}
    assert any("PCA of the examples" in note for note in result.notes)  # no runner, no classifier
    assert any("no prior" in note for note in result.notes)
    assert set(result.figures) == {"generated", "nearest_training", "traversals", "interpolations"}
    assert set(result.figures) <= set(report.CAPTIONS)
    assert all(draw() is not None for draw in result.figures.values())


@pytest.mark.slow
def test_a_table_without_labels_is_measured():
    run = trainer(small(), table(200))
    result = generation.measure(trained(run), Data(run.experiment, run.data), **QUICK)
    assert result.figures == {}
    assert np.isfinite(result.numbers["generation/flow/fid"])


def test_draws_of_a_gaussian_code_are_those_of_its_posterior():
    own = model(**VAE)
    x = images()[:1].repeat(4000, 0)
    mean, logvar = samplers.moments(own, x)
    drawn = samplers.posterior(own, x, 0)
    np.testing.assert_allclose(drawn.mean(0), mean[0], atol=0.1 * np.exp(logvar[0].max() / 2))
    np.testing.assert_allclose(drawn.std(0), np.exp(logvar[0] / 2), rtol=0.05)


@pytest.mark.slow
def test_stored_samplers_draw_the_same(tmp_path):
    run = trainer(small(), images(), (np.arange(100) % 3).tolist())
    own, data = trained(run), Data(run.experiment, run.data)
    result = generation.measure(own, data, **QUICK)
    np.savez(tmp_path / "samplers.npz", **result.arrays["samplers"])
    loaded = samplers.load(tmp_path / "samplers.npz", own)
    assert tuple(loaded) == samplers.NAMES
    codes = samplers.posterior(own, run.data.train["x"], 0)
    for name in samplers.NAMES:
        label = None if name == "prior" else "2"
        fresh = samplers.fit(own, codes, run.data.train["y"], name, HOW._replace(components=2, flow_steps=5))
        np.testing.assert_array_equal(loaded[name].codes(5, 3, label), fresh.codes(5, 3, label))
    other = trained(run)
    other.params = {**other.params, "decoder": {}}
    with pytest.raises(InputError, match="another checkpoint"):
        samplers.load(tmp_path / "samplers.npz", other)


@pytest.mark.slow
def test_samplers_from_python():
    y = ["ab"[i % 2] for i in range(100)]
    own = aejax.fit(images(), small(train__epochs=1), y=y)
    sampler = own.sampler(images(), "gmm", y=y)
    assert sampler.sample(4, seed=1, label="b").shape == (4, 6, 5, 1)
    for arguments, words in (
        ({"name": "gan"}, ["samplers = ('gan',)", "prior, gaussian, gmm, kde, flow"]),
        ({"componnts": 3}, ["componnts", "no such field", "components"]),
        ({"components": 0}, ["components = 0", "at least 1"]),
        ({"y": y[:3]}, ["y: 3 labels of 100 examples"]),
    ):
        with pytest.raises(InputError) as error:
            own.sampler(images(), **arguments)
        one_line(error, *words)
    for few in (images()[:1], images()[:0]):
        with pytest.raises(InputError) as error:
            own.sampler(few)
        one_line(error, "needs 2 or more examples", f"found {len(few)}")
    numbered = own.sampler(images(), "gaussian", y=y)
    numbered.classes, numbered.parts = ["1"], {"class_1": numbered.parts["class_a"]}
    assert numbered.sample(2, label=1).shape == (2, 6, 5, 1)
    with pytest.raises(InputError) as error:
        sampler.sample(1, label="c")
    one_line(error, "label = c", "a, b")
    with pytest.raises(InputError) as error:
        sampler.sample(-1)
    one_line(error, "n = -1", "at least 0")


def test_a_classifier_is_left_out():
    labels = (np.arange(100) % 3).tolist()
    run = trainer(small(finetune__name="classifier", objective__likelihood="categorical"), images(), labels)
    with pytest.raises(Skip, match="decodes"):
        generation.measure(trained(run), Data(run.experiment, run.data))


def test_wrong_features_end_a_run_before_it_trains(tmp_path):
    config = small(uses__run=("generation",), uses__generation__features="nowhere")
    with pytest.raises(InputError) as error:
        run_lib.run(config, tmp_path / "run", sources.from_array(images(), config))
    one_line(error, "uses.generation.features = 'nowhere'", "must be a run directory")
    assert not (tmp_path / "run").exists()


def test_features_are_those_of_a_classifier(tmp_path):
    spec = trainer(small(), images()).data.spec
    for fields, wrong in (({}, 1), ({"pair__name": "label"}, 0), ({"finetune__name": "classifier"}, 0)):
        (tmp_path / "config.json").write_text(config_json.to_json(small(**fields)))
        config = small(uses__generation__features=str(tmp_path))
        assert len(list(generation.check(config, spec))) == wrong


@pytest.mark.slow
def test_a_run_with_its_classifier_then_predict(tmp_path):
    quick = [f"--generation.{name}={value}" for name, value in QUICK.items()]
    work, output = tmp_path / "run", tmp_path / "s.npy"
    finish(command("--config=vae", f"--workdir={work}", "--config.train.epochs=3", "--config.figures.enabled=false"))
    asked = (f"--workdir={work}", "--what=samples", "--n=5", f"--output={output}")
    _, err = finish(command(*asked, "--sampler=gmm", module="aejax.predict"), 2)
    assert f"python -m aejax.evaluate --workdir={work} --use=generation" in err
    finish(command(*asked[:1], "--use=generation", "--generation.samplers=gmm,flow", *quick, module="aejax.evaluate"))
    kept = (work / "uses/generation/classifier/results.json").stat().st_mtime_ns
    numbers = json.loads((work / "uses/generation/results.json").read_text())
    features = next(csv.DictReader((work / "uses/generation/features.csv").read_text().splitlines()))
    classifier = aejax.load(work / "uses/generation/classifier")
    assert features["fingerprint"] == classifier.fingerprint
    own = aejax.load(work)
    data = Data(own.experiment, own.data.dataset)
    again = runner.run(
        own,
        data,
        ["generation"],
        work,
        {"generation": {**own.config.uses.generation, **QUICK, "samplers": ("gmm", "flow")}},
    )
    assert again == pytest.approx(numbers)
    assert (work / "uses/generation/classifier/results.json").stat().st_mtime_ns == kept  # not trained again
    finish(command(*asked, "--sampler=flow", "--label=3", "--seed=4", module="aejax.predict"))
    sampler = saved.load_samplers(work, own, "samples")["flow"]
    np.testing.assert_allclose(np.load(output), sampler.sample(5, 4, "3"), atol=1e-6)
    for flags, words in (
        (("--sampler=kde",), ["--sampler=kde", "must be one that was fitted: gmm, flow"]),
        (("--sampler=gmm", "--label=x"), ["--label=x", "must be one of 0, 1"]),
        (("--label=3",), ["--label=3", "needs --sampler"]),
    ):
        given = dict(flag.removeprefix("--").split("=") for flag in flags)
        with pytest.raises(InputError) as error:
            prediction.drawn(own, work, given.get("sampler"), given.get("label"), 5, 0)
        one_line(error, *words)
