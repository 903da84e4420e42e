"""Fields of the config, declared by the parts."""

from typing import Annotated

import pytest

from aejax import config as config_lib
from aejax import fields
from aejax.errors import InputError
from aejax.fields import Field, above, at_least, each, one_of, within
from common import change, check, one_line, small


def part(
    x,
    *,
    rate: Annotated[float, Field("of learning", above(0))] = 0.5,
    name: Annotated[str, Field("of it")] = "a",
    other=1,
):
    """A function with two fields."""


def clashing(x, *, rate: Annotated[float, Field("of another thing", above(0))] = 0.5):
    """A function that declares a field differently."""


def test_declared_fields_are_the_annotated_parameters():
    found = fields.declared(part)
    assert list(found) == ["rate", "name"]
    assert (found["rate"].default, found["rate"].kind, found["rate"].about) == (0.5, float, "of learning")
    assert fields.chosen(part, {"rate": 2.0, "name": "b", "other": 3}) == {"rate": 2.0, "name": "b"}


def test_parts_that_share_a_section_must_agree():
    with pytest.raises(TypeError, match="declares the field rate differently"):
        fields.declared(part, clashing)


@pytest.mark.parametrize(
    ("allowed", "good", "bad", "text"),
    [
        (at_least(1), [1, 2], [0], "be at least 1"),
        (above(0), [0.1], [0.0, -1], "be greater than 0"),
        (within(0, 1), [0, 1, 0.5], [-0.1, 1.1], "lie in [0, 1]"),
        (within(0, 1, brackets="()"), [0.5], [0, 1], "lie in (0, 1)"),
        (one_of({"a": 1, "b": 2}), ["a", "b"], ["c"], "be one of a, b"),
        (
            each(at_least(1), int, "integers of at least 1"),
            [(1, 2), (), None],
            [(0,), (1.5,)],
            "be a tuple of integers",
        ),
    ],
)
def test_ranges(allowed, good, bad, text):
    assert all(map(allowed.accepts, good))
    assert not any(map(allowed.accepts, bad))
    assert text in str(allowed)


@pytest.mark.parametrize(
    ("default", "text", "value"),
    [(1, "3", 3), (1.0, "2e-3", 2e-3), (True, "false", False), ("a", "b", "b"), ((), "1,2", (1, 2))],
)
def test_values_of_the_command_line(default, text, value):
    assert fields.Declared(default, object, "", None).parse("--x", text) == value
    with pytest.raises(InputError):
        fields.Declared(1, int, "", None).parse("--x", "one")


def test_every_field_says_what_it_means():
    known = config_lib.declared()
    assert len(known) > 150
    assert all(len(field.about) > 2 for field in known.values())
    described = config_lib.describe(small())
    line = "train.epochs = 2  # passes over the training split; must be at least 1"
    assert line in described.splitlines()


@pytest.mark.parametrize("path", [path for path, field in config_lib.declared().items() if field.allowed is not None])
def test_a_value_out_of_range_is_refused_by_name(path):
    field = config_lib.declared()[path]
    values = {int: -(2**40), float: -1e30, str: "nonsense!", bool: None}
    bad = values.get(type(field.default), ("object",))
    if bad is None or field.allowed.accepts(bad):
        pytest.skip("any value of its type is allowed")
    with pytest.raises(InputError) as error:
        check(change(small(), **{path.replace(".", "__"): bad}))
    one_line(error, f"config.{path}", "must")
