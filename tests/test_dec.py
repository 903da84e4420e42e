"""DEC, IDEC and N2D: formulas, the refresh over all data, resumption, the stop, the meshes, wrong input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

import aejax
from aejax import run as run_lib
from aejax.data import sources
from aejax.errors import InputError
from aejax.losses.assignment import divergence, log_assignment, log_target
from aejax.storage.checkpoint import Checkpoints
from aejax.training import members
from aejax.uses.clustering import embedding, partitions
from aejax.uses.clustering import measure as clustering
from common import assert_equal, check, get_config, images, metrics, one_line, small, trainer
from test_clustering import blobs
from test_mesh import execute

RNG = np.random.default_rng(0)
Z, CENTRES = RNG.standard_normal((6, 3)), RNG.standard_normal((4, 3))
IDEC = {
    "method__name": "clustering",
    "method__clustering__clusters": 3,
    "method__clustering__start_epochs": 2,
    "method__clustering__restarts": 2,
    "method__clustering__tolerance": 0.0,
    "train__epochs": 5,
    "train__eval_epochs": 5,
    "data__split_seed": 0,
}
X = images(96, (4, 4, 1))


def assignment(z, centres, alpha):
    """q [N, K] in NumPy."""
    q = (1 + ((z[:, None] - centres[None]) ** 2).sum(-1) / alpha) ** (-(alpha + 1) / 2)
    return q / q.sum(1, keepdims=True)


def target(q, f):
    p = q**2 / f
    return p / p.sum(1, keepdims=True)


def test_width_divides_the_distances():
    log_q = log_assignment(jnp.asarray(Z), jnp.asarray(CENTRES), 2.0, 0.5)
    np.testing.assert_allclose(log_q, np.log(assignment(Z / 0.5, CENTRES / 0.5, 2.0)), rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 4.0])
def test_assignment_target_and_divergence_equal_numpy(alpha):
    q = assignment(Z, CENTRES, alpha)
    log_q = log_assignment(jnp.asarray(Z), jnp.asarray(CENTRES), alpha)
    np.testing.assert_allclose(np.exp(log_q), q, rtol=1e-5)
    f = q.sum(0)
    log_p = log_target(log_q, jnp.asarray(f))
    p = target(q, f)
    np.testing.assert_allclose(np.exp(log_p), p, rtol=1e-5)
    np.testing.assert_allclose(divergence(log_p, log_q), (p * np.log(p / q)).sum(1), rtol=1e-4, atol=1e-6)


def test_gradients_are_those_of_the_paper():
    """Xie et al. (2016), equations 4 and 5, for alpha 1 (their factor 2 (α + 1) / 2α is 2), and finite differences."""
    with jax.enable_x64(True):
        q = assignment(Z, CENTRES, 1.0)
        p = target(q, q.sum(0))

        def loss(z, centres):
            return divergence(jnp.log(p), log_assignment(z, centres, 1.0)).sum()

        by_z, by_centres = jax.grad(loss, (0, 1))(jnp.asarray(Z), jnp.asarray(CENTRES))
        gap = Z[:, None] - CENTRES[None]
        terms = 2 * ((p - q) / (1 + (gap**2).sum(-1)))[:, :, None] * gap
        np.testing.assert_allclose(by_z, terms.sum(1), rtol=1e-9)
        np.testing.assert_allclose(by_centres, -terms.sum(0), rtol=1e-9)
        way, eps = RNG.standard_normal(CENTRES.shape), 1e-5
        slope = (loss(Z, CENTRES + eps * way) - loss(Z, CENTRES - eps * way)) / (2 * eps)
        np.testing.assert_allclose((by_centres * way).sum(), slope, rtol=1e-6)


@pytest.mark.slow
def test_the_first_refresh_sets_centres_and_frequencies_of_all_examples():
    """k-means before the start and NumPy on the codes of all training examples, uncorrupted; one step by hand."""
    fields = IDEC | {"method__clustering__start_epochs": 0, "pair__name": "denoise", "pair__denoise__level": 0.3}
    run = trainer(small(**fields), X)
    state = run.init()
    own = jax.device_get(state.variables["method"])  # the state is donated
    x = run.data.train["x"].reshape(len(run.data.train["x"]), -1) / 255

    def encode(params, h):
        for layer, last in (("layers_0", False), ("layers_1", True)):
            h = h @ np.asarray(params[layer]["kernel"]) + np.asarray(params[layer]["bias"])
            h = h if last else np.maximum(h, 0)
        return h

    codes = encode(state.params["encoder"], x)
    q = assignment(codes, np.asarray(own["centres"]), 1.0)
    np.testing.assert_allclose(own["frequencies"], q.sum(0), rtol=1e-4)
    assert float(own["frequencies"].sum()) == pytest.approx(run.data.spec.train, rel=1e-5)
    np.testing.assert_array_equal(own["labels"], q.argmax(1))
    np.testing.assert_array_equal(own["centres"], state.params["clusters"]["centres"])
    nearest = ((codes[:, None] - np.asarray(own["centres"])[None]) ** 2).sum(-1).argmin(1)
    means = [codes[nearest == k].mean(0) for k in range(3)]
    np.testing.assert_allclose(own["centres"], means, rtol=1e-3, atol=1e-4)  # a fixed point of k-means
    ridge = 1e-3 * codes.var(0).mean()
    points = codes[np.random.default_rng(0).permutation(len(codes))]
    mixture = GaussianMixture(3, n_init=2, random_state=0, reg_covar=ridge).fit(points)
    method = dataclasses.replace(run.experiment.method, initial="gmm")
    np.testing.assert_allclose(method._initial(codes), mixture.means_, rtol=1e-4)

    # The target stays that of the refresh while encoder and centres move.
    state, _ = run.run(state, 0, 1)
    batch = run.batch(1)
    terms, made = run.experiment.objective.terms(
        state.params, state.variables, batch, key=jax.random.key(1), step=state.step, train=True
    )
    clean = np.asarray(batch["x"]).reshape(32, -1) / 255
    p = target(assignment(encode(own["frozen"]["params"]["encoder"], clean), np.asarray(own["centres"]), 1.0), q.sum(0))
    now = assignment(np.asarray(made["code"].z), np.asarray(state.params["clusters"]["centres"]), 1.0)
    np.testing.assert_allclose(terms["kl_clusters"], (p * np.log(p / now)).sum(1), rtol=1e-3, atol=1e-5)
    total = run.experiment.objective.loss({n: jnp.mean(t) for n, t in terms.items()}, state.step)
    expected = np.mean(terms["reconstruction"]) + 0.1 * np.mean(terms["kl_clusters"])  # gamma on the clustering alone
    assert float(total) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.slow
def test_before_the_start_training_is_that_of_the_autoencoder():
    run, plain = trainer(small(**IDEC), X), trainer(small(train__epochs=5, train__eval_epochs=5, data__split_seed=0), X)
    state, other = run.init(), plain.init()
    per_epoch = run.feed.steps_per_epoch
    for _ in range(2):
        start = int(state.step)
        state, _ = run.run(state, start, start + per_epoch)
        other, _ = plain.run(other, start, start + per_epoch)
    for part in ("encoder", "decoder"):
        assert_equal(jax.device_get(state.params[part]), jax.device_get(other.params[part]))
    assert bool(state.variables["method"]["started"])  # set after the last step


def test_dec_has_no_reconstruction_after_the_start():
    run = trainer(small(**IDEC, method__clustering__reconstruction=0.0, method__clustering__gamma=1.0), X)
    loss = run.experiment.objective.loss
    terms = {"reconstruction": jnp.asarray(5.0), "kl_clusters": jnp.asarray(0.3)}
    start = 2 * run.feed.steps_per_epoch
    assert float(loss(terms, jnp.asarray(start - 1))) == 5.0
    assert float(loss(terms, jnp.asarray(start))) == pytest.approx(0.3)


@pytest.mark.slow
def test_a_stopped_run_resumes_bit_for_bit_across_a_refresh(tmp_path):
    config = small(**IDEC, data__validation_fraction=0.1, checkpoint__every_steps=1, train__log_steps=1)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    run_lib.run(config, whole, sources.from_array(X, config))
    for _ in range(8):
        _stop_at_once(parted, config)
    run_lib.run(config, parted, sources.from_array(X, config))
    assert metrics(parted) == metrics(whole)
    assert_equal(_state(parted), _state(whole))


def _stop_at_once(path, config):
    """One interval of a run, which then stops."""
    from aejax.errors import Stopped
    from aejax.parallel import mesh
    from aejax.training import plan, resumption
    from aejax.training.loop import optimize
    from aejax.training.trainer import Trainer

    data, resolved = sources.from_array(X, config), plan.resolve(config)
    experiment, _ = run_lib.prepare(resolved, data)
    run = Trainer(experiment, data, mesh.make(1))
    with resumption.opened(path, resolved, data.spec), pytest.raises(Stopped):
        optimize(run, path, lambda: True)


def _state(path):
    run = trainer(aejax.load(path).config, X)
    with Checkpoints(path / "checkpoints" / "last", read_only=True) as checkpoints:
        return checkpoints.restore(checkpoints.latest(), run.abstract)[0]


@pytest.mark.slow
def test_training_ends_where_the_clusters_no_longer_change(tmp_path, capsys):
    fields = IDEC | {"method__clustering__tolerance": 0.5, "optim__learning_rate": 1e-5, "train__epochs": 50}
    config = small(**fields)
    found = run_lib.run(config, tmp_path, sources.from_array(X, config))
    assert found["epochs"] == 3  # set after 2, refreshed once
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if "training ends" in line]
    assert "tolerance" in line
    assert "step 6 of" in line.replace("  ", " ")
    changed = [m["changed_labels"] for m in metrics(tmp_path) if "changed_labels" in m]
    assert changed[0] == 1.0
    assert changed[1] < 0.5
    (tmp_path / "results.json").unlink()
    again = run_lib.run(config, tmp_path, sources.from_array(X, config))  # resumes at the same step
    assert again["epochs"] == 3
    assert again["test/loss"] == found["test/loss"]


MESH = """
import json, sys
sys.path[:0] = ["tests"]
from common import images, small
from aejax import experiment
from aejax.data import sources
from aejax.parallel import mesh
from aejax.training import plan
from aejax.training.trainer import Trainer

fields, found = json.loads(sys.argv[1]), []
for data, model, fsdp in ((1, 1, False), (2, 1, True), (4, 1, False)):
    config = small(**fields, mesh__data=data, mesh__model=model, mesh__fsdp=fsdp)
    dataset = sources.from_array(images(96, (4, 4, 1)), config)
    run = Trainer(experiment.build(plan.resolve(config), dataset.spec), dataset, mesh.make(data, model))
    state, losses = run.init(), []
    for start, end in run.intervals(0):
        state, values = run.run(state, start, end)
        losses += [values["loss"], values["kl_clusters"]]
    found.append([*losses, run.evaluate(state, "test")["loss"]])
print(json.dumps(found))
"""


@pytest.mark.slow
def test_several_devices_give_the_losses_of_one():
    one, *others = execute(MESH, 4, IDEC, quick=True)
    for losses in others:
        np.testing.assert_allclose(losses, one, rtol=1e-5)


def test_streamed_data_give_the_same_state():
    states = []
    for resident in ("true", "false"):
        run = trainer(small(**IDEC, data__resident=resident), X)
        state = run.init()
        for start, end in run.intervals(0):
            state, _ = run.run(state, start, end)
        states.append(jax.device_get(state))
    assert_equal(*states)


@pytest.mark.slow
def test_centres_assign_new_examples(tmp_path):
    config = small(
        **IDEC | {"method__clustering__start_epochs": 1},
        uses__run=("clustering",),
        uses__clustering__methods=("centres", "kmeans"),
        uses__clustering__restarts=1,
        uses__clustering__clusters=3,
    )
    found = run_lib.run(config, tmp_path, sources.from_array(X, config))
    assert -1 <= found["clustering/centres/silhouette"] <= 1
    assert "clustering/pixels/centres/silhouette" not in found
    model = aejax.load(tmp_path)
    from aejax.storage import saved

    made = saved.load_clusters(tmp_path, saved.load(tmp_path), "clusters")
    cluster, probability = made.assign(X)
    q = assignment(model.encode(X), made.centres(), 1.0)
    np.testing.assert_array_equal(cluster, q.argmax(1))
    np.testing.assert_allclose(probability, q.max(1), rtol=1e-4)
    np.testing.assert_allclose(
        np.sort(made.centres(), axis=0), np.sort(np.asarray(model.params["clusters"]["centres"]), axis=0)
    )


@pytest.mark.slow
def test_n2d_recovers_separated_gaussians_and_places_new_points():
    pytest.importorskip("umap")
    x, y = blobs(90, 5, 12.0)
    how = partitions.Settings(3, 2, 0, "full", 10, 5, components=2, neighbours=15)
    made, notes = partitions.fit(x, "n2d", how)
    assert notes == []
    np.testing.assert_array_equal(made.assign(x).cluster, y)
    new, truth = blobs(90, 5, 12.0, seed=1)
    np.testing.assert_array_equal(made.assign(new).cluster, truth)
    again = partitions.Embedded(made.arrays).assign(new)
    np.testing.assert_array_equal(again.probability, made.assign(new).probability)
    np.testing.assert_allclose(made.centres, [x[y == k].mean(0) for k in range(3)], atol=1e-4)


def test_a_new_point_lies_between_the_embeddings_of_its_neighbours():
    from aejax.uses.neighbours import Points

    x = np.array([[0.0], [1.0], [10.0], [11.0]], np.float32)
    made = embedding.place(np.array([[0.0], [10.5]]), Points(x, "euclidean"), np.array([[0.0], [2.0], [50.0], [60.0]]))
    assert made[0, 0] == 0.0  # a fitted point keeps its place
    distances = np.array([0.5, 0.5, 9.5, 10.5])
    excess = distances - 0.5
    w = np.exp(-excess / excess.mean())
    assert made[1, 0] == pytest.approx((w * [50, 60, 2, 0]).sum() / w.sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"model__bottleneck__name": "gaussian", "objective__likelihood": "bernoulli"}, ("method.name", "identity")),
        ({"finetune__name": "classifier"}, ("method.name", "classifier")),
        ({"data__binarize": "dynamic", "objective__likelihood": "bernoulli"}, ("method.name", "binarize")),
        ({"finetune__patience": 3, "data__validation_fraction": 0.1}, ("method.name", "tolerance")),
        ({"method__clustering__clusters": 1}, ("method.clustering.clusters", "0 or at least 2")),
        ({"method__clustering__refresh_epochs": 4}, ("start_epochs", "multiple", "4")),
        ({"method__clustering__tolerance": 1.5}, ("tolerance", "1.5")),
        ({"method__clustering__alpha": 0.0}, ("alpha", "0.0")),
        ({"method__clustering__width": 0.0}, ("width", "0.0")),
    ],
)
def test_what_does_not_fit_is_refused(fields, parts):
    with pytest.raises(InputError) as error:
        check(small(**IDEC | fields))
    one_line(error, *parts)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"method__clustering__start_epochs": 5}, ("start_epochs", "below the 5 epochs")),
        ({"method__clustering__clusters": 0}, ("clusters", "no labels")),
        ({"method__clustering__clusters": 1000}, ("clusters", "at most")),
    ],
)
def test_what_does_not_fit_the_data_is_refused(fields, parts):
    with pytest.raises(InputError) as error:
        trainer(small(**IDEC | fields), X)
    one_line(error, *parts)


def test_uses_and_populations_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    config = small(uses__run=("clustering",), uses__clustering__methods=("centres",))
    with pytest.raises(InputError) as error:
        run_lib.run(config, tmp_path / "a")
    one_line(error, "uses.clustering.methods", "method.name = 'clustering'")
    config = small(
        **IDEC, uses__run=("clustering",), uses__clustering__methods=("centres",), uses__clustering__scale="length"
    )
    with pytest.raises(InputError) as error:
        run_lib.run(config, tmp_path / "b")
    one_line(error, "uses.clustering.scale", "none")
    monkeypatch.setattr(clustering, "installed", lambda: False)
    config = small(uses__run=("clustering",), uses__clustering__methods=("n2d",))
    with pytest.raises(InputError) as error:
        run_lib.run(config, tmp_path / "c")
    one_line(error, "pip install 'aejax[umap]'")
    (error,) = members.check(small(**IDEC, population__seeds=(0, 1)))
    assert "method.name" in str(error)
    assert "population" in str(error)
    assert not list(tmp_path.iterdir())


def test_methods_without_a_refresh_have_no_state():
    run = trainer(small(), X)
    assert "method" not in run.init().variables
    assert run.cut == run.period


@pytest.mark.parametrize(("name", "w", "gamma"), [("dec", 0.0, 1.0), ("idec", 1.0, None)])
def test_configs_are_the_papers_losses(name, w, gamma):
    own = get_config(name).method.clustering
    assert own.reconstruction == w
    assert gamma is None or own.gamma == gamma
