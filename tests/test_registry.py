"""Names for interchangeable parts."""

from __future__ import annotations

import pytest

from samba_asr.errors import UserError
from samba_asr.registry import Registry


@pytest.fixture
def shapes():
    registry = Registry("shape")

    @registry.register("circle")
    class Circle:
        def __init__(self, radius=1):
            self.radius = radius

    registry.register("square")(lambda side: side * side)
    return registry


def test_a_part_is_built_by_name(shapes):
    assert shapes.build("circle", radius=3).radius == 3
    assert shapes.build("square", 4) == 16


def test_registering_gives_back_what_was_registered(shapes):
    def star():
        return "*"

    assert shapes.register("star")(star) is star


def test_names_are_listed(shapes):
    assert list(shapes) == ["circle", "square"]
    assert "circle" in shapes
    assert "star" not in shapes


def test_an_unknown_name_is_named_with_the_nearest(shapes):
    with pytest.raises(UserError, match=r"unknown shape 'circel' \(did you mean 'circle'\?\); there are: "):
        shapes["circel"]
    with pytest.raises(UserError, match=r"unknown shape 'xyz'; there are: circle, square"):
        shapes.build("xyz")


def test_a_name_is_taken_only_once(shapes):
    with pytest.raises(ValueError, match="shape 'circle' is registered twice"):
        shapes.register("circle")(int)
    assert shapes["circle"] is not int
