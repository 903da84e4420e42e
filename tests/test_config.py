import json

import numpy as np
import pytest

from aejax import config as config_lib
from aejax.data import dataset, sources
from aejax.errors import InputError
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
    read = config_lib.from_json(config_lib.to_json(config))
    assert read.to_dict() == config_lib.move_renamed(config).to_dict()
    assert config_lib.digest(read) == config_lib.digest(config)


def test_a_config_without_a_field_takes_its_default():
    stored = json.loads(config_lib.to_json(small()))
    del stored["optim"]["ema"]
    assert config_lib.from_json(json.dumps(stored)).optim.ema == 0.0


@pytest.mark.parametrize("change", [{"format": 0}, {"nonsense": 1}])
def test_a_config_file_of_another_format_is_refused(change):
    stored = json.loads(config_lib.to_json(small())) | change
    with pytest.raises(InputError):
        config_lib.from_json(json.dumps(stored))


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
