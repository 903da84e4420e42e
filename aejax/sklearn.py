"""Estimators for scikit-learn: pipelines, grid search, cloning and pickling work as for its own."""

import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from ml_collections import ConfigDict
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, OutlierMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from aejax import config as config_lib
from aejax.data import dataset, sources
from aejax.data.bags import dense
from aejax.data.dataset import Dataset
from aejax.data.sources import frames
from aejax.errors import FieldError, InputError, did_you_mean
from aejax.experiment import Experiment, State
from aejax.parallel import mesh as mesh_lib
from aejax.run import prepare
from aejax.storage import config_json
from aejax.trained import of_state
from aejax.training import plan, population
from aejax.training.trainer import Trainer
from aejax.uses.anomaly import detector

FIELDS = tuple(path.replace(".", "__") for path in config_lib.flatten(config_lib.default().to_dict()))


class _Estimator(BaseEstimator):
    """A config with overrides of its fields, and X as the package takes it."""

    _default = ""  # name of the config if none is given; "" = the default config with likelihood squared_error

    def __init__(self, config: str | Path | ConfigDict | None = None, **overrides: Any):
        _check_names(overrides)
        self.config = config
        self._overrides = overrides

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {"config": self.config, **self._overrides}

    def set_params(self, **params: Any) -> Self:
        # The base class reads a double underscore as a parameter of a parameter.
        _check_names({name for name in params if name != "config"})
        self.config = params.pop("config", self.config)
        self._overrides = self._overrides | params
        return self

    def _config(self) -> ConfigDict:
        """The config with its overrides, not locked; raises InputError."""
        if self.config is None and self._default:
            config = config_lib.shipped(self._default, sources.ARRAY)
        elif self.config is None:
            config = config_lib.default()
            config.objective.likelihood = "squared_error"
        elif isinstance(self.config, ConfigDict):
            config = ConfigDict(self.config)  # a copy
        elif isinstance(self.config, str | Path):
            config = config_lib.shipped(self.config, sources.ARRAY)
        else:
            raise InputError(f"config = {self.config!r}: must be None, a name, a path or a ConfigDict")
        plain = {name: v.item() if isinstance(v, np.generic) else v for name, v in self._overrides.items()}
        return config_lib.changed(config, plain)

    def _prepared(self, config: ConfigDict, X: Any, left_out: int = 0) -> tuple[Experiment, Dataset, jax.sharding.Mesh]:
        """The experiment of a config on X; raises InputError.

        A batch holds at most the rows that a model sees: all of X, or with `left_out` blocks all but one of them.
        """
        _check_plain(config)
        x = self._validate(X, reset=True)
        raw = frames.read(x, config) if frames.is_frame(x) else {"x": x}
        x = raw.pop("x")
        data = dataset.build(raw | {"x_train": x, "x_test": x[:1]}, config)  # a test split is required, but not used
        devices = mesh_lib.make(config.mesh.data, config.mesh.model).shape["data"]
        seen = data.spec.train - (-(-data.spec.train // left_out) if left_out else 0)
        config.train.batch_size = min(config.train.batch_size, max(seen // devices, 1) * devices)
        experiment, mesh = prepare(plan.resolve(config), data)
        return experiment, data, mesh

    def _validate(self, X: Any, *, reset: bool = False) -> Any:
        """X as an array or CSR, checked like scikit-learn's; `fit` also stores the shape of a row.

        A data frame is kept if config.data.missing or config.data.categorical accepts more than numbers.
        """
        fewest, prepared = 2 if reset else 1, self._config().data
        if frames.is_frame(X) and (prepared.missing != "error" or prepared.categorical != "error"):
            validate_data(self, X, reset=reset, skip_check_array=True)
            if reset:
                self._shape: tuple[int, ...] = (-1,)
            return X
        finite = prepared.missing == "error" or "allow-nan"
        rank = X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim
        if rank > 2:  # images, which have no columns
            x = check_array(X, allow_nd=True, dtype="numeric", ensure_min_samples=fewest)
            if reset:
                self.n_features_in_ = int(np.prod(x.shape[1:]))
        else:
            x = validate_data(
                self,
                X,
                reset=reset,
                accept_sparse="csr",
                dtype="numeric",
                ensure_min_samples=fewest,
                ensure_all_finite=finite,
            )
        if reset:
            self._shape = x.shape[1:]
        return x

    def __getstate__(self) -> dict[str, Any]:
        """The config as text: a ConfigDict's references cannot be pickled."""
        state = dict(super().__getstate__())
        if isinstance(self.config, ConfigDict):
            state["config"] = {"json": config_json.to_json(self.config)}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state["config"], dict):
            state = state | {"config": config_json.from_json(state["config"]["json"])}
        super().__setstate__(state)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class Autoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _Estimator):
    """An autoencoder as a transformer: X -> codes, and back.

    config: None (the default config with likelihood squared_error), the name of a file in configs/ such as
    "vae", the path of one, or a ConfigDict. overrides: fields of the config, a double underscore for each
    dot: `Autoencoder("vae", train__epochs=3, model__bottleneck__size=2, seed=1)`. They are ordinary
    parameters: `set_params(train__epochs=5)`, in a pipeline's grid `{"autoencoder__train__epochs": [3, 5]}`.
    get_params gives those that were set.

    X is a table [N, D] in its own units, whose columns are standardised internally; a sparse matrix [N, D] of
    scipy.sparse, in any format, which is not standardised; or images [N, H, W(, C)], uint8 or floats in [0, 1].
    A model of a table takes sparse and dense rows alike. All rows are used for training, except a fraction
    data.validation_fraction; a larger batch is reduced to their number. `fit` raises InputError, a ValueError, if
    config or data cannot be used, and NonFiniteError.

    All `sklearn.utils.estimator_checks` pass except check_do_not_raise_errors_in_init_or_set_params: an unknown name
    is refused at once, like an unknown argument in Python.

    Fitted: model_ (`aejax.Trained`), loss_curve_ (list of the loss, a mean over each few steps), loss_,
    n_iter_ (epochs), n_features_in_, feature_names_in_ if X has column names.
    """

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on X from the start; y is ignored."""
        experiment, data, mesh = self._prepared(self._config(), X)
        trainer = Trainer(experiment, data, mesh)
        state, self.loss_curve_ = trainer.init(), []
        for start, end in trainer.intervals(0):
            state, metrics = trainer.run(state, start, end)
            self.loss_curve_.append(metrics["loss"])
        self.loss_ = self.loss_curve_[-1]
        self.n_iter_ = max(trainer.steps // trainer.feed.steps_per_epoch, 1)
        self.model_ = of_state(experiment, mesh_lib.gather(mesh, state))
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Codes [N, units], float32; a code that is a map is flattened."""
        check_is_fitted(self)
        codes = self.model_.encode(self._validate(X))
        return codes.reshape(len(codes), -1)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Reconstruction means [N, ...] of codes [N, units], in the units and the rank of the X that was fitted."""
        check_is_fitted(self)
        z = dense(check_array(X, accept_sparse="csr", dtype=np.float32))
        if z.shape[1] != self._n_features_out:
            raise InputError(f"X has {z.shape[1]} features, but the codes have {self._n_features_out} units")
        x = self.model_.decode(z.reshape(-1, *self.model_.code_shape))
        return x.reshape(len(x), *self._shape)

    def score_samples(self, X: Any) -> np.ndarray:
        """[N], the negative of `aejax.Trained.score`: scikit-learn's convention, higher is more normal."""
        check_is_fitted(self)
        return -self.model_.score(self._validate(X))

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of score_samples, which a grid search maximises."""
        return float(np.mean(self.score_samples(X), dtype=np.float64))

    @property
    def _n_features_out(self) -> int:
        return int(np.prod(self.model_.code_shape))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]  # codes are float32 whatever X is
        return tags


class _Plan(NamedTuple):
    """The members of a detector before the training."""

    experiments: list[Experiment]
    data: Dataset
    rows: list[np.ndarray]  # that each member sees
    how: detector.Settings
    references: int


class AnomalyDetector(OutlierMixin, _Estimator):
    """An outlier detector: autoencoders of several seeds whose standardised scores are averaged.

    config, overrides: as for `Autoencoder`; None is the config `anomaly`. contamination: share of normal examples that
    the threshold flags. members: number of models. Member m is trained without the m-th of as many contiguous blocks of
    rows; the threshold is the 1 - contamination quantile of the scores of all rows, each by the member that has not
    seen it. A single member is trained on all rows. `uses.anomaly.*` are the fields of the score, as in
    `AnomalyDetector(uses__anomaly__score="likelihood")`. X as for `Autoencoder`: normal examples, perhaps with a few
    anomalies. `fit` raises InputError, a ValueError, if config or data cannot be used, and NonFiniteError.

    Fitted: detector_ (`aejax.uses.anomaly.detector.Detector`), rows_ (those that each member saw), threshold_,
    offset_ = -threshold_, loss_, n_features_in_, feature_names_in_ if X has column names.
    """

    _default = "anomaly"
    detector_: detector.Detector
    offset_: float

    def __init__(
        self,
        config: str | Path | ConfigDict | None = None,
        *,
        contamination: float = 0.05,
        members: int = 5,
        **overrides: Any,
    ):
        super().__init__(config, **overrides)
        self.contamination, self.members = contamination, members

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return super().get_params(deep) | {"contamination": self.contamination, "members": self.members}

    def set_params(self, **params: Any) -> Self:
        for name in ("contamination", "members"):
            setattr(self, name, params.pop(name, getattr(self, name)))
        return super().set_params(**params)

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on X from the start; y is ignored."""
        (fitted,) = fit_all([self], [X])
        return fitted

    def _plan(self, X: Any) -> _Plan:
        """The models of the members, not yet trained; raises InputError."""
        if not isinstance(self.contamination, numbers.Real) or not 0 < self.contamination <= 0.5:
            raise InputError(f"contamination = {self.contamination!r}: must lie in (0, 0.5]")
        if not isinstance(self.members, numbers.Integral) or self.members < 1:
            raise InputError(f"members = {self.members}: must be an integer of at least 1")
        config = self._config()
        config.data.validation_fraction = 0.0
        count = int(self.members)
        experiment, data, _ = self._prepared(config, X, count if count > 1 else 0)
        n = data.spec.train
        if n < 2 * count:
            raise InputError(f"members = {count}: needs at least {2 * count} rows, found {n}")
        own, fold = config.uses.anomaly, detector.blocks(n, count)
        how = detector.settings(own.score, own.terms, own.weights, own.neighbours, data.spec.x.kind)
        rows = [np.flatnonzero(fold != m) for m in range(count)] if count > 1 else [np.arange(n)]
        experiments = [population.with_seed(experiment, config.seed + m) for m in range(count)]
        return _Plan(experiments, data, rows, how, own.references)

    def _finish(self, plan: _Plan, states: Sequence[State], losses: Sequence[np.ndarray]) -> Self:
        """The scores and the threshold of the trained members."""
        x, n, count = plan.data.train["x"], plan.data.spec.train, len(plan.rows)
        models = [of_state(experiment, state) for experiment, state in zip(plan.experiments, states, strict=True)]
        made = detector.fit(models, x, plan.rows, plan.how, plan.references)
        if count > 1:
            scores = np.take_along_axis(made.scores(x), detector.blocks(n, count)[:, None], axis=1)[:, 0]
        else:
            scores = detector.cross_fitted(models, x, detector.blocks(n), plan.how, plan.references)
        made.calibrate(scores, self.contamination)
        self.rows_ = plan.rows
        self.detector_, self.loss_ = made, float(np.mean([own[-1] for own in losses]))
        self.threshold_, self.offset_ = made.threshold, -made.threshold
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Negative anomaly scores [N]: scikit-learn's convention, higher is more normal."""
        check_is_fitted(self)
        return -self.detector_.score(self.detector_.model.take(self._validate(X)))

    def decision_function(self, X: Any) -> np.ndarray:
        """score_samples - offset_, [N]: negative for what is flagged."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """-1 for rows that are flagged as anomalies, 1 for others, [N]."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: Any) -> np.ndarray:
        """Conformal p-values [N]: the smaller, the more anomalous."""
        return self.detector_.p_value(-self.score_samples(X))


def fit_all(detectors: Sequence[AnomalyDetector], X: Sequence[Any]) -> list[AnomalyDetector]:
    """Fit each detector on its X, as `fit` does; the models of equal programs are trained together.

    So detectors of several seeds, or one for each class, take less time than one after another. Raises what `fit`
    raises.
    """
    plans = [own._plan(x) for own, x in zip(detectors, X, strict=True)]
    experiments = [one for plan in plans for one in plan.experiments]
    data = [plan.data for plan in plans for _ in plan.rows]
    rows = [own for plan in plans for own in plan.rows]
    states, losses = population.train(experiments, data, rows)
    ends = np.cumsum([len(plan.rows) for plan in plans])
    return [
        own._finish(plan, states[end - len(plan.rows) : end], losses[end - len(plan.rows) : end])
        for own, plan, end in zip(detectors, plans, ends, strict=True)
    ]


def _check_plain(config: ConfigDict) -> None:
    """Raise InputError unless the config trains one autoencoder on X from random parameters."""
    usual = config_lib.default()
    for field in ("pretrain.widths", "init_from", "data.labeled_examples", "finetune.name", "finetune.freeze",
                  "finetune.patience", "finetune.layer_decay"):  # fmt: skip
        value, only = config_lib.get(config, field), config_lib.get(usual, field)
        if value != only:
            raise FieldError(field, value, f"must be {only!r} for the estimator; train it with aejax.main")


def _check_names(names: Any) -> None:
    for name in names:
        if name not in FIELDS:
            hint = did_you_mean(name, FIELDS)
            raise InputError(f"{name}: no such parameter: must be config, or a field of it with __ for each dot{hint}")
