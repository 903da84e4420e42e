import json

import numpy as np
import pytest

from aejax import config as config_lib
from aejax.data import dataset, sources
from aejax.errors import FieldErrors, InputError
from aejax.fields import Declared
from aejax.storage import config_json
from aejax.training import plan
from common import CONFIGS, VAE, change, check, get_config, images, one_line, small, table

FLAT = config_lib.flatten(config_lib.default().to_dict())

BAD = [
    ("data.binarize", "yes"),
    ("data.test_fraction", 0.0),
    ("data.test_fraction", 1.0),
    ("data.validation_fraction", 1.0),
    ("data.split_seed", -1),
    ("data.split_seed", 2**32),
    ("pair.name", "nothing"),
    ("model.name", "resnet"),
    ("model.encoder.activation", "rleu"),
    ("model.encoder.widths", (8, 0)),
    ("model.encoder.widths", (8, 2.5)),
    ("model.decoder.widths", ("8",)),
    ("model.encoder.norm", "group"),
    ("model.encoder.dropout", 1.0),
    ("model.encoder.kernel_init", "zeros"),
    ("model.bottleneck.name", "vq"),
    ("model.bottleneck.size", 0),
    ("model.code_activation", "linear"),
    ("model.dtype", "float16"),
    ("objective.likelihood", "poisson"),
    ("objective.sigma", 0.0),
    ("objective.learn_sigma", True),
    ("objective.kl.weight", -1.0),
    ("objective.kl.begin", -1),
    ("objective.kl.schedule", "cosine"),
    ("optim.name", "adamm"),
    ("optim.learning_rate", 0.0),
    ("optim.schedule", "step"),
    ("optim.warmup_steps", -1),
    ("optim.final_fraction", 1.5),
    ("optim.momentum", 1.0),
    ("optim.weight_decay", 0.1),
    ("optim.clip", -1.0),
    ("optim.accumulate", 0),
    ("optim.accumulate", 3),
    ("optim.ema", 1.0),
    ("train.epochs", 0),
    ("train.batch_size", 0),
    ("train.eval_batch_size", 0),
    ("train.eval_epochs", -1),
    ("train.log_steps", 0),
    ("checkpoint.every_steps", 0),
    ("checkpoint.max_to_keep", 0),
    ("figures.examples", 0),
    ("figures.grid", 1),
    ("figures.box", (1.0, 0.0, 0.0, 1.0)),
    ("mesh.data", 0),
    ("seed", -1),
    ("seed", 2**32),
]


@pytest.mark.parametrize(("field", "value"), BAD, ids=[f"{field}={value}" for field, value in BAD])
def test_bad_value_is_one_line_that_names_it(field, value):
    config = change(small(), **{field.replace(".", "__"): value})
    with pytest.raises(InputError) as error:
        check(config)
    one_line(error, f"config.{field} = {value!r}: ")


@pytest.mark.parametrize("field", [name for name, value in FLAT.items() if type(value) is float])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39])
def test_numbers_must_be_finite(field, value):
    with pytest.raises(InputError) as error:
        check(change(small(), **{field.replace(".", "__"): value}))
    one_line(error, field.split(".")[-1])  # the decoder's fields follow the encoder's


OPTIONAL = ("model.bottleneck.topk.", "objective.")  # fields of what is off are checked once it is on


@pytest.mark.parametrize(
    "field", [name for name, value in FLAT.items() if type(value) is int and not name.startswith(OPTIONAL)]
)
def test_every_integer_has_a_range(field):
    with pytest.raises(InputError) as error:
        check(change(small(), **{field.replace(".", "__"): -(2**40)}))
    one_line(error, field)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        (VAE | {"objective__likelihood": "squared_error"}, ["likelihood", "ELBO"]),
        (VAE | {"model__code_activation": "relu"}, ["code_activation"]),
        (VAE | {"model__decoder__tied": True}, ["tied"]),
        ({"model__decoder__tied": True, "model__decoder__widths": (9,)}, ["decoder.widths", "(8,)"]),
        (VAE | {"objective__kl__schedule": "linear"}, ["kl.steps"]),
    ],
)
def test_bad_combinations(fields, names):
    with pytest.raises(InputError) as error:
        check(small(**fields))
    one_line(error, *names)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid_and_survives_its_file(path):
    config = get_config(path.stem)
    check(config)
    read = config_json.from_json(config_json.to_json(config))
    assert read.to_dict() == config_lib.move_renamed(config).to_dict()
    assert config_lib.digest(read) == config_lib.digest(config)


def test_a_config_without_a_field_takes_its_default():
    stored = json.loads(config_json.to_json(small()))
    del stored["optim"]["ema"]
    assert config_json.from_json(json.dumps(stored)).optim.ema == 0.0


@pytest.mark.parametrize("change", [{"format": 0}, {"nonsense": 1}])
def test_a_config_file_of_another_format_is_refused(change):
    stored = json.loads(config_json.to_json(small())) | change
    with pytest.raises(InputError):
        config_json.from_json(json.dumps(stored))


def test_several_problems_are_one_line():
    with pytest.raises(FieldErrors) as error:
        check(small(train__epochs=0, optim__learning_rate=-1.0, model__name="resnet"))
    one_line(
        error,
        "3 problems: config.model.name = 'resnet': must be one of mlp, conv, conv1d, recurrent, seq2seq; ",
        "; config.optim.learning_rate = -1.0: must be greater than 0; config.train.epochs = 0: must be at least 1",
    )
    assert {found.field for found in error.value.errors} == {"train.epochs", "optim.learning_rate", "model.name"}


def test_a_config_of_format_1():
    """Uses were flags of `evaluate`, and contrastive divergence a penalty, also of a stage."""
    stored = json.loads(config_json.to_json(get_config("stacked_rbm"))) | {"format": 1}
    for section in ("method", "uses"):
        del stored[section]
    stored["evaluate"] = {"probe": True, "retrieval": False, "jacobian": True, "units": True}
    sections = {"": (stored, 0.0, 2), "pretrain.stage_0.": (stored["pretrain"]["stage_0"], 1.0, 5)}
    for section, weight, gibbs in sections.values():
        section.pop("method", None)
        section["objective"]["contrastive_divergence"] = {
            "weight": weight, "schedule": "constant", "begin": 0, "steps": 0, "gibbs": gibbs
        }  # fmt: skip
    config = config_json.from_json(json.dumps(stored))
    assert config.uses.run == ("reconstruction", "jacobian", "probe")
    assert config.train.log_units
    assert "evaluate" not in config
    for prefix, (_, weight, gibbs) in sections.items():
        assert config_lib.get(config, f"{prefix}method.name") == ("contrastive" if weight else "autoencoder")
        assert config_lib.get(config, f"{prefix}method.contrastive.gibbs") == gibbs
        assert "contrastive_divergence" not in config_lib.get(config, f"{prefix}objective")
    assert json.loads(config_json.to_json(config))["format"] == 2
    assert config_json.from_json(config_json.to_json(config)).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("old", "field", "value"),
    [
        ("probe", "uses.run", ("reconstruction", "probe")),
        ("retrieval", "uses.run", ("reconstruction", "retrieval")),
        ("jacobian", "uses.run", ("reconstruction", "jacobian")),
        ("units", "train.log_units", True),
    ],
)
def test_old_names_of_fields_work_and_say_so(capsys, old, field, value):
    resolved = plan.resolve(small(**{f"evaluate__{old}": True}))
    assert config_lib.get(resolved, field) == value
    assert "evaluate" not in resolved
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.startswith(
        f"config.evaluate.{old} has a new name: config.{field}, here {value if old == 'units' else old}"
    )
    new = plan.resolve(small(**{field.replace(".", "__"): value}))
    assert new.to_dict() == resolved.to_dict()
    assert not capsys.readouterr().out


def test_uses_are_no_part_of_the_identity():
    config, other = plan.resolve(small()), plan.resolve(small(uses__run=("probe",), uses__jacobian__examples=3))
    assert config.to_dict() != other.to_dict()
    assert config_lib.identity(config) == config_lib.identity(other)
    assert config_lib.digest(config) == config_lib.digest(other)
    assert not config_lib.difference(config, other)


def test_a_field_that_a_later_version_adds_changes_no_digest(monkeypatch):
    config = plan.resolve(small())
    digest, known = config_lib.digest(config), config_lib.declared()
    monkeypatch.setattr(config_lib, "declared", lambda: known | {"optim.later": Declared(0.5, float, "of later", None)})
    later = plan.resolve(small())
    assert later.optim.later == 0.5
    assert config_lib.digest(later) == digest
    assert config_lib.digest(plan.resolve(small(optim__later=0.6))) != digest


def test_digest_is_of_what_determines_the_numbers():
    digest = config_lib.digest(small())
    assert config_lib.digest(small(checkpoint__every_steps=7, mesh__data=1, train__progress=True)) == digest
    assert config_lib.digest(small(seed=1)) != digest


def test_the_decoder_follows_the_encoder_unless_set():
    config = small(model__encoder__activation="tanh")
    assert config.model.decoder.activation == "tanh"
    config = small(model__decoder__activation="gelu", model__encoder__activation="tanh")
    assert config.model.decoder.activation == "gelu"


def spec(x, **fields):
    config = small(**fields)
    return config, sources.from_array(x, config).spec


@pytest.mark.parametrize(
    ("x", "fields", "names"),
    [
        (images(), {"train__batch_size": 81}, ["train.batch_size = 81", "80 training examples"]),
        (table(), {"data__binarize": "dynamic"}, ["data.binarize", "table"]),
        (table(), {"objective__likelihood": "bernoulli"}, ["objective.likelihood", "standardised"]),
        (table(), {"objective__likelihood": "bernoulli", "data__standardize": False}, ["likelihood", "[0, 1]"]),
    ],
)
def test_config_against_data(x, fields, names):
    config, found = spec(x, **fields)
    check(config)
    with pytest.raises(InputError) as error:
        check(config, found)
    one_line(error, *names)


def test_bernoulli_on_a_table_outside_the_unit_interval_in_the_test_split_only():
    config = small(objective__likelihood="bernoulli", data__standardize=False, data__source="memory")
    raw = {"x_train": np.random.default_rng(0).random((50, 3)), "x_test": np.full((5, 3), 2.0)}
    with pytest.raises(InputError) as error:
        check(config, dataset.build(raw, config).spec)
    one_line(error, "objective.likelihood", "[0, 1]")
