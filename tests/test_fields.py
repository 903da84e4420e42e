"""Fields of the config, declared by the parts."""

import dataclasses
from typing import Annotated

import pytest

from aejax import config as config_lib
from aejax import fields
from aejax.errors import InputError
from aejax.fields import Field, above, at_least, each, one_of, some_of, within
from common import change, check, one_line, small


def part(
    x,
    *,
    rate: Annotated[float, Field("of learning", above(0))] = 0.5,
    name: Annotated[str, Field("of it")] = "a",
    other=1,
):
    """A function with two fields."""


def otherwise(x, *, rate: Annotated[float, Field("of another thing", above(0))] = 0.5):
    """Another meaning of the same field."""


def elsewhere(x, *, rate: Annotated[float, Field("of learning", above(0))] = 0.1):
    """Another default."""


def alike(x, *, size: Annotated[int, Field("of it")] = 3, rate: Annotated[float, Field("of learning", above(0))] = 0.5):
    """The same declaration, beside a further field."""


def without_default(x, *, rate: Annotated[float, Field("of learning")]):
    """A field needs a default."""


@dataclasses.dataclass(frozen=True)
class Base:
    first: Annotated[int, Field("of a base", at_least(1))] = 1


@dataclasses.dataclass(frozen=True)
class Derived(Base):
    second: Annotated[tuple | None, Field("of its own")] = None


def test_declared_fields_are_the_annotated_parameters():
    found = fields.declared(part)
    assert list(found) == ["rate", "name"]
    assert (found["rate"].default, found["rate"].kind, found["rate"].about) == (0.5, float, "of learning")
    assert fields.chosen(part, {"rate": 2.0, "name": "b", "other": 3}) == {"rate": 2.0, "name": "b"}


def test_parts_that_share_a_section_must_agree():
    assert list(fields.declared(part, alike)) == ["rate", "name", "size"]
    for other in (otherwise, elsewhere):
        with pytest.raises(TypeError, match="declares the field rate differently"):
            fields.declared(part, other)


def test_a_field_needs_a_default():
    with pytest.raises(TypeError, match="the field rate needs a default"):
        fields.declared(without_default)


def test_fields_of_a_class_are_those_of_its_bases_too():
    found = fields.declared(Derived)
    assert list(found) == ["first", "second"]
    assert (found["first"].default, found["second"].default) == (1, None)
    assert fields.chosen(Derived, {"first": 2, "second": (3,), "third": 4}) == {"first": 2, "second": (3,)}


def test_a_registry_may_grow_after_the_declaration():
    names = {"a": 1}
    allowed = one_of(names)
    assert not allowed.accepts("b")
    names["b"] = 2
    assert allowed.accepts("b")
    assert str(allowed) == "be one of a, b"


@pytest.mark.parametrize(
    ("allowed", "good", "bad", "text"),
    [
        (at_least(1), [1, 2], [0], "be at least 1"),
        (above(0), [0.1], [0.0, -1], "be greater than 0"),
        (within(0, 1), [0, 1, 0.5], [-0.1, 1.1], "lie in [0, 1]"),
        (within(0, 1, brackets="()"), [0.5], [0, 1], "lie in (0, 1)"),
        (within(0, 1, brackets="(]"), [0.5, 1], [0, 1.1], "lie in (0, 1]"),
        (one_of({"a": 1, "b": 2}), ["a", "b"], ["c"], "be one of a, b"),
        (some_of({"a": 1, "b": 2}), [("a",), ("b", "a"), ()], [("c",), ("a", "c")], "be a tuple of a, b"),
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
    [
        (1, "3", 3),
        (1.0, "2e-3", 2e-3),
        (True, "false", False),
        ("a", "b", "b"),
        ((), "1,2", (1, 2)),
        ((), "(1, 2)", (1, 2)),
        ((), "", ()),
        (None, "1,2", (1, 2)),
    ],
)
def test_values_of_the_command_line(default, text, value):
    found = fields.Declared(default, object, "", None).parse("--x", text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("default", "text", "kind"), [(1, "one", "int"), (1, "1.5", "int"), (1.0, "x", "float"), (True, "maybe", "bool"),
                                  ((), "1,,2", "tuple")]
)  # fmt: skip
def test_a_text_that_is_no_value_is_refused(default, text, kind):
    with pytest.raises(InputError) as error:
        fields.Declared(default, object, "", None).parse("--use.x", text)
    one_line(error, f"--use.x={text}: must be of the type {kind}")


KNOWN = config_lib.declared()
FLAT = config_lib.flatten(config_lib.default().to_dict())


def test_every_field_of_the_default_says_what_it_means():
    assert {name for name in FLAT if not name.startswith("evaluate.")} == set(KNOWN)
    assert [name for name, field in KNOWN.items() if len(field.about.strip()) < 3] == []
    described = config_lib.describe(small()).splitlines()
    assert "train.epochs = 2  # passes over the training split; must be at least 1" in described
    assert all("  # " in line for line in described if not line.startswith("evaluate."))


def outside(field):
    """A value of the field's type that it may not take; None where it may take any."""
    candidates = {int: (-(2**40), 2**40), float: (-1e30, 1e30), str: ("nonsense!",), tuple: (("object",),)}
    refused = (v for v in candidates.get(type(field.default), ()) if field.allowed and not field.allowed.accepts(v))
    return next(refused, None)


OUTSIDE = {name: value for name, field in KNOWN.items() if (value := outside(field)) is not None}


def test_every_number_has_a_range():
    numbers = [name for name, field in KNOWN.items() if type(field.default) in (int, float)]
    assert [name for name in numbers if name not in OUTSIDE] == []


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_value_outside_its_range_is_refused_by_name(name):
    value = OUTSIDE[name]
    with pytest.raises(InputError) as error:
        check(change(small(), **{name.replace(".", "__"): value}))
    one_line(error, f"config.{name} = {value!r}: must {KNOWN[name].allowed}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,2", (1, 2)),
        ("(1, 2)", (1, 2)),
        ("1,", (1,)),
        ("", ()),
        ("a,b", ("a", "b")),
        ("a", ("a",)),
        ("'a', 1", ("a", 1)),
    ],
)
def test_a_tuple_on_the_command_line(text, value):
    assert fields.Declared((), tuple, "", None).parse("--x", text) == value
