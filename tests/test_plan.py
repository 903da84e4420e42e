"""What the fields of a config determine, stage by stage."""

import pytest

from aejax import config as config_lib
from aejax.training import plan, stages
from common import change


def stacked(**fields):
    """A config of three stages."""
    config = config_lib.default()
    config_lib.stages(config, 3)
    sigmoid = {f"model__{name}": "sigmoid" for name in ("encoder__activation", "code_activation")}
    return change(config, pretrain__widths=(6, 4, 3), **sigmoid, **fields)


@pytest.mark.parametrize(
    ("field", "value", "first"),
    [
        ("model.encoder.dropout", 0.5, 3),
        ("optim.learning_rate", 0.1, 3),
        ("train.epochs", 5, 3),
        ("train.batch_size", 20, 3),
        ("finetune.name", "classifier", 3),
        ("objective.l1.weight", 1.0, 3),
        ("data.labeled_examples", (20,), 3),
        ("few_labels.folds", 3, 3),
        ("train.log_units", True, 3),
        ("name", "other", 3),
        ("pretrain.stage_1.optim.learning_rate", 0.1, 1),
        ("pretrain.stage_2.epochs", 3, 2),
        ("train.log_steps", 7, 0),
        ("data.test_fraction", 0.3, 0),
        ("model.dtype", "bfloat16", 0),
        ("seed", 1, 0),
    ],
)
def test_the_stage_that_a_field_determines_is_the_first_whose_digest_it_changes(field, value, first):
    config = plan.implied(stacked())
    other = plan.implied(stacked(**{field.replace(".", "__"): value}))
    assert plan.first_stage(field, config_lib.get(config, field), value, 3) == first
    changed = [stages.digest(config, k, "") != stages.digest(other, k, "") for k in range(3)]
    assert changed == [k >= first for k in range(3)]


def test_stages_more_or_fewer_begin_after_those_that_are_the_same():
    assert plan.first_stage("pretrain.widths", [6, 4], [6, 4, 3], 3) == 2
    assert plan.first_stage("pretrain.widths", [6, 4, 3], [6], 1) == 1
    assert plan.first_stage("pretrain.widths", [6, 4, 3], [5, 4, 3], 3) == 0


def test_resolve_leaves_the_config_of_its_caller_as_it_was():
    config = config_lib.default()
    config_lib.stages(config, 1)
    config = change(config, pretrain__widths=(6, 4), model__encoder__activation="sigmoid")
    config = change(config, model__code_activation="sigmoid")
    before = config.to_dict()
    assert "stage_1" in plan.resolve(config).pretrain
    assert config.to_dict() == before
