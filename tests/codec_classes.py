"""Classes that stored values in the tests are made of; golden files name them, so they stay as they are."""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections import namedtuple
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel, field_validator

T = TypeVar("T")


class Colour(enum.Enum):
    RED = 1
    GREEN = (2, "g")
    CRIMSON = 1


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Status(enum.StrEnum):
    DONE = "done"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: Any
    y: Any = None


Pair = namedtuple("Pair", "first second")


@dataclasses.dataclass
class Box:
    content: Any
    count: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    a: Any = None
    total: Any = dataclasses.field(init=False, default=7)


@dataclasses.dataclass
class SubBox(Box):
    more: str = ""

    @functools.cached_property
    def doubled(self) -> int:
        return self.count * 2


class Config(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    lr: float = 0.1
    payload: Any = None


class SubConfig(Config):
    depth: int = 1


class Aliased(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")
    name: str = Field(alias="theName")
    other: int = Field(default=1, validation_alias="o", serialization_alias="p")


class Private(BaseModel):
    value: int = 0
    _cache: Any = PrivateAttr(default=None)


class Generous(BaseModel, Generic[T]):
    item: T


class Numbers(RootModel[list[int]]):
    pass


@pydantic.dataclasses.dataclass
class Checked:
    n: int


class Doubling(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def double(cls, n: int) -> int:
        return n * 2


class Loud(BaseModel):
    """Notes when its own code runs."""

    ran: ClassVar[list[str]] = []
    n: int = 0

    @field_validator("n")
    @classmethod
    def check(cls, n: int) -> int:
        cls.ran.append("validator")
        return n

    def model_post_init(self, context: Any) -> None:
        self.ran.append("post_init")


@dataclasses.dataclass
class LoudData:
    """Notes when its own code runs."""

    ran: ClassVar[list[str]] = []
    n: int = 0

    def __post_init__(self) -> None:
        self.ran.append("post_init")


class LoudEnum(enum.Enum):
    A = "a"

    @classmethod
    def _missing_(cls, value: object) -> LoudEnum:
        LoudData.ran.append("missing")
        return cls.A


@dataclasses.dataclass
class Dying:
    n: int = 0

    def __del__(self) -> None:
        LoudData.ran.append("del")


class Summary:
    """A read-only view with the hook that the codec honours."""

    def __init__(self, summary: dict[str, Any]) -> None:
        self._summary = summary

    def __sweep_encode__(self) -> dict[str, Any]:
        return self._summary
