"""Clustering with the codes: centres are trained with the encoder towards a sharpened assignment (DEC, IDEC)."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.fields import Allowed, Field, above, at_least, one_of, within
from aejax.losses import Forward
from aejax.losses.assignment import divergence, log_assignment, log_target
from aejax.losses.penalties import flat
from aejax.methods.objective import Objective, Term
from aejax.methods.phase import Method
from aejax.pairs.example import Batch, scale
from aejax.parallel import processes

CLUSTERS = "clusters"  # component of the parameters
INITIAL = ("kmeans", "gmm")
FITTED = 20_000  # most codes that the mixture is fitted to
RIDGE = 1e-3  # added to its variances, as a share of the mean variance of the units


@dataclasses.dataclass(frozen=True)
class Clustering(Method):
    """Xie et al. (2016), DEC; Guo et al. (2017), IDEC.

    Before the start: the objective of the config. From then on: w · reconstruction + γ KL(P ‖ Q) + penalties, with w =
    `reconstruction` times its weight. Q is the assignment of the codes to the centres, see `losses.assignment`. The
    first centres are those of k-means, or the means of a Gaussian mixture, of the codes of all training data. P is made
    by the model of the last refresh, from the uncorrupted example, with frequencies over all training data. Training
    stops at a refresh where the share of training examples whose cluster argmax_j q_ij has changed since the last one
    is below `tolerance`.
    """

    clusters: Annotated[
        int,
        Field(
            "number of clusters; 0 = the number of classes", Allowed("be 0 or at least 2", lambda v: v in {0} or v > 1)
        ),
    ] = 0
    alpha: Annotated[float, Field("degrees of freedom of Student's t", above(0))] = 1.0
    width: Annotated[
        float,
        Field("distance in the code that Student's t takes as 1; it should suit the scale of the codes", above(0)),
    ] = 1.0
    gamma: Annotated[float, Field("factor γ of KL(P ‖ Q) from the start on", at_least(0))] = 0.1
    reconstruction: Annotated[
        float, Field("factor w of the reconstruction from the start on: 1 = IDEC, 0 = DEC", at_least(0))
    ] = 1.0
    start_epochs: Annotated[
        int, Field("epochs of reconstruction alone before the centres are set; 0 with config.init_from", at_least(0))
    ] = 100
    refresh_epochs: Annotated[int, Field("epochs between two refreshes of the target", at_least(1))] = 1
    tolerance: Annotated[
        float,
        Field("share of changed clusters below which training stops; 0 = never", within(0, 1, brackets="[)")),
    ] = 0.001
    initial: Annotated[
        str, Field("centres at the start: kmeans | gmm (means of a Gaussian mixture)", one_of(INITIAL))
    ] = "kmeans"
    restarts: Annotated[int, Field("k-means or mixture start so many times; the best fit is kept", at_least(1))] = 20
    seed: Annotated[int, Field("seed of k-means or mixture", within(0, 2**32, brackets="[)"))] = 0
    examples: int = 0  # of the training split
    steps_per_epoch: int = 1

    refreshes: ClassVar[bool] = True

    def bind(self, spec: Spec, steps_per_epoch: int) -> "Clustering":
        clusters = self.clusters or len(spec.classes)
        return dataclasses.replace(self, clusters=clusters, examples=spec.train, steps_per_epoch=steps_per_epoch)

    @property
    def start(self) -> int:
        """The step at which the centres are set."""
        return self.start_epochs * self.steps_per_epoch

    @property
    def refresh_steps(self) -> int:
        return self.refresh_epochs * self.steps_per_epoch

    def objective(self, objective: Objective) -> Objective:
        before = objective.weight
        own = Term(functools.partial(self._divergence, objective), lambda step: self._from_start(step, 0.0, self.gamma))
        return dataclasses.replace(
            objective,
            weight=lambda step: before(step) * self._from_start(step, 1.0, self.reconstruction),
            penalties={**objective.penalties, "kl_clusters": own},
        )

    def init(self, key: jax.Array, objective: Objective) -> dict[str, Any]:
        return {CLUSTERS: {"centres": jnp.zeros((self.clusters, objective.model.bottleneck.size))}}

    def variables(self, params: Any, variables: Any) -> dict[str, Any]:
        return {
            "centres": params[CLUSTERS]["centres"],
            "frequencies": jnp.ones(self.clusters),
            "frozen": jax.tree.map(jnp.copy, _encoder(params, variables)),
            "labels": jnp.full(self.examples, -1, jnp.int32),  # of the training examples at the last refresh
            "started": jnp.zeros((), bool),
            "over": jnp.zeros((), bool),
        }

    def summary(self, objective: Objective, params: Any, variables: Any, batch: Batch) -> jax.Array:
        x = objective.examples(None, scale(batch)).input
        return flat(objective.encoder(params, variables)(x).z)

    def refresh(self, state: Any, summaries: Callable[[], np.ndarray]) -> tuple[Any, dict[str, float]]:
        if int(state.step) < self.start:
            return state, {}
        codes, before = summaries(), state.variables["method"]
        params, ema, started = state.params, state.ema, bool(before["started"])
        if not started:
            centres = np.array(processes.share(self._initial(codes).tolist()), np.float32)
            params, ema = (tree and {**tree, CLUSTERS: {"centres": centres}} for tree in (params, ema))
        centres = params[CLUSTERS]["centres"]
        q = np.exp(np.asarray(self._log_q(jnp.asarray(codes), jnp.asarray(centres)), np.float64))
        labels = q.argmax(1).astype(np.int32)
        changed = float((labels != before["labels"]).mean())
        own = {
            "centres": centres,
            "frequencies": q.sum(0).astype(np.float32),
            "frozen": _encoder(params, state.variables),
            "labels": labels,
            "started": np.array(True),
            "over": np.array(started and changed < self.tolerance),
        }
        state = dataclasses.replace(state, params=params, ema=ema, variables={**state.variables, "method": own})
        return state, {"changed_labels": changed}

    def over(self, variables: Any) -> str:
        if not bool(variables["method"]["over"]):
            return ""
        return f"fewer than {self.tolerance:.3%} of the clusters have changed (config.method.clustering.tolerance)"

    def check(self, config: Any) -> Iterator[FieldError]:
        name, own = config.method.name, config.method.clustering
        refused = [
            (config.model.bottleneck.name != "identity" or config.model.bottleneck.size == 0)
            and "needs model.bottleneck.name = 'identity' and model.bottleneck.size of at least 1",
            (config.finetune.name == "classifier" or config.pair.name == "label")
            and "trains an autoencoder: it takes no classifier",
            (config.pair.name == "inpaint" and config.pair.inpaint.conditional)
            and "needs pair.inpaint.conditional = False",
            config.data.binarize == "dynamic"
            and "needs data.binarize = 'none' or 'static': the target is of fixed data",
            config.finetune.patience and "needs finetune.patience = 0: tolerance stops it",
            any(config.pretrain[f"stage_{k}"].method.name == name for k in range(len(config.pretrain.widths)))
            and "trains a whole model, no stage of pretraining",
        ]
        yield from (FieldError("method.name", name, allowed) for allowed in refused if allowed)
        if own.start_epochs % own.refresh_epochs:
            allowed = f"must be a multiple of method.clustering.refresh_epochs = {own.refresh_epochs}"
            yield FieldError("method.clustering.start_epochs", own.start_epochs, allowed)

    def check_data(self, config: Any, spec: Spec) -> Iterator[FieldError]:
        number, per_epoch = self.clusters or len(spec.classes), spec.train // config.train.batch_size
        steps = config.train.steps or config.train.epochs * per_epoch
        if not 2 <= number <= spec.train:
            few = "since there are no labels to count" if not self.clusters else f"at most {spec.train:,} examples"
            yield FieldError("method.clustering.clusters", self.clusters, f"must be at least 2, {few}")
        if self.start_epochs * per_epoch >= steps:
            allowed = f"must be below the {steps / max(per_epoch, 1):g} epochs of the whole training"
            yield FieldError("method.clustering.start_epochs", self.start_epochs, allowed)

    def _divergence(self, objective: Objective, forward: Forward) -> jax.Array:
        """KL(P ‖ Q), nats, [B]; 0 before the start."""
        own = forward.variables["method"]
        assert forward.clean is not None

        def value(x: jax.Array, z: jax.Array, centres: jax.Array) -> jax.Array:
            frozen = objective.encoder(own["frozen"]["params"], own["frozen"]["variables"])
            before = self._log_q(flat(frozen(x).z), own["centres"])
            return divergence(log_target(before, own["frequencies"]), self._log_q(z, centres))

        z = flat(forward.code.z)
        inputs = forward.clean(), z, forward.params[CLUSTERS]["centres"]
        return jax.lax.cond(own["started"], value, lambda x, z, centres: jnp.zeros(len(z), z.dtype), *inputs)

    def _log_q(self, z: jax.Array, centres: jax.Array) -> jax.Array:
        return log_assignment(z, centres, self.alpha, self.width)

    def _from_start(self, step: jax.Array, before: float, after: float) -> jax.Array:
        return jnp.where(jnp.asarray(step) < self.start, before, after)

    def _initial(self, codes: np.ndarray) -> np.ndarray:
        """The centres [K, d] at the start."""
        from sklearn.cluster import KMeans
        from sklearn.mixture import GaussianMixture

        points = codes.astype(np.float64)
        if self.initial == "kmeans":
            kmeans = KMeans(self.clusters, n_init=self.restarts, random_state=self.seed).fit(points)
            return np.asarray(kmeans.cluster_centers_, np.float32)
        points = points[np.random.default_rng(self.seed).permutation(len(points))[:FITTED]]
        ridge = RIDGE * float(points.var(0).mean())
        mixture = GaussianMixture(self.clusters, n_init=self.restarts, random_state=self.seed, reg_covar=ridge)
        return np.asarray(mixture.fit(points).means_, np.float32)


def _encoder(params: Any, variables: Any) -> dict[str, Any]:
    """What the encoder needs, of parameters and variables."""
    parts = ("encoder", "bottleneck")
    own = {name: values for name, values in variables.items() if name != "method"}
    return {
        "params": {part: params[part] for part in parts if part in params},
        "variables": {name: {part: values[part] for part in parts if part in values} for name, values in own.items()},
    }
