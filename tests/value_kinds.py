"""Classes of the values in `test_values`: importable, as a store needs them."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, NamedTuple

from pydantic import BaseModel


class Colour(enum.Enum):
    """A plain enum."""

    RED = "red"
    BLUE = 2


class Level(enum.IntFlag):
    """Flags."""

    LOW = 1
    HIGH = 2


class Point(NamedTuple):
    """A named tuple."""

    x: float
    y: float


@dataclasses.dataclass
class Fit:
    """A dataclass with another inside."""

    slope: float
    colour: Colour
    inner: Fit | None = None
    notes: dict[Any, Any] = dataclasses.field(default_factory=dict)


class Shape(BaseModel):
    """A model."""

    name: str
    size: tuple[int, int] = (1, 2)


class Circle(Shape):
    """A subclass of a model."""

    radius: float = 1.0
