"""The State of a run: the named fields that have passed contracts so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, final

from sweep.deferred import Deferred
from sweep.errors import did_you_mean
from sweep.pipeline.annotations import Annotation
from sweep.pipeline.unread import Unread

__all__ = ["MissingField", "State"]


class MissingField(AttributeError, KeyError):
    """A State was asked for a field it does not have."""

    def __init__(self, name: str, known: list[str]) -> None:
        self.field = name
        listed = ", ".join(known) if known else "none yet"
        self.text = f"the State has no field {name!r}{did_you_mean(name, known) or f'; its fields: {listed}'}"
        super().__init__(self.text)

    def __str__(self) -> str:
        return self.text


@final
class State(Deferred):
    """Named fields, read by attribute (or by item); read-only.

    It has no methods besides the dunder ones, so that any field name can be read.
    ``await`` gives the State itself: ``Pipeline().run()`` returns one.

    A large array or tensor that an earlier session has saved is read from disk when its field is.

    Example:
        >>> state = State({"lr": 0.1})
        >>> state.lr, "lr" in state, list(state)
        (0.1, True, ['lr'])
    """

    __slots__ = ("_fields", "_models")

    _fields: dict[str, Any]
    _models: dict[Annotation, Any]

    def __init__(self, fields: Mapping[str, object] | None = None, models: Mapping[Annotation, object] | None = None) -> None:
        object.__setattr__(self, "_fields", dict(fields or {}))
        object.__setattr__(self, "_models", dict(models or {}))

    def _adopt(self, finished: State) -> None:
        object.__setattr__(self, "_fields", finished._fields)
        object.__setattr__(self, "_models", finished._models)

    def _with(self, updates: Mapping[str, object], models: Mapping[Annotation, object]) -> State:
        """Return a State with later values in place of earlier ones."""
        new = State.__new__(State)
        object.__setattr__(new, "_fields", {**self._fields, **updates} if updates else self._fields)
        object.__setattr__(new, "_models", {**self._models, **models} if models else self._models)
        return new

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_main", "_what", "_fields", "_models"):
            if name in ("_fields", "_models"):
                self._require_finished()
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Any:
        try:
            value = self._fields[name]
        except KeyError:
            raise MissingField(name, list(self._fields)) from None
        if type(value) is Unread:
            value = self._fields[name] = value.read()
        return value

    def _model(self, kind: Annotation) -> Any:
        """Return the model of a class that a stage has given, or None."""
        value = self._models.get(kind)
        return value.read() if type(value) is Unread else value

    def _asdict(self) -> dict[str, Any]:
        """Return the fields as a new dict."""
        self._require_finished()
        return {name: self[name] for name in self._fields}

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a State is read-only: return {{{name!r}: …}} from the stage instead of assigning it")

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        return self._asdict() == (other._asdict() if isinstance(other, State) else other)

    __hash__ = None  # type: ignore[assignment]  # compared by value, values may be mutable

    def __repr__(self) -> str:
        if getattr(self, "_main", None) is not None:
            return f"State(pending: await …{self._what})"
        shown = ", ".join(f"{name}={_short(value)}" for name, value in self._fields.items())
        return f"State({shown})"

    def __reduce__(self) -> tuple[type[State], tuple[dict[str, object], dict[Annotation, object]]]:
        return State, (self._asdict(), {kind: self._model(kind) for kind in self._models})


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
