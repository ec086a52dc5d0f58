"""A pydantic model as the schema of a scope: types, defaults, constraints, and a frozen result."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Union, cast, final, get_args, get_origin

from sweep.config.adict import Path, dotted, leaves
from sweep.config.commandline import Assignment, range_hint
from sweep.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

__all__ = ["Schema", "frozen_model"]

Where = Callable[[Path], str]


@final
class Schema:
    """Reads a model class; everything a scope wants to know of it.

    Args:
        model: The pydantic model.
    """

    def __init__(self, model: type[BaseModel]) -> None:
        self.model = model

    def defaults(self) -> dict[str, object]:
        """Return the defaults, nested models as mappings; required fields are absent."""
        return _defaults(self.model)

    def field(self, path: Path, where: str = "") -> FieldInfo | None:
        """Return the field at ``path``; None in a free part (a dict, Any, ``extra="allow"``).

        Raises:
            UnknownName: There is no such field.
            ConfigError: The path goes on below a plain value.
        """
        model: type[BaseModel] | None = self.model
        found: FieldInfo | None = None
        for depth, name in enumerate(path):
            if model is None:
                if found is not None and _is_plain(found.annotation):
                    kind = _name(found.annotation)
                    raise ConfigError(f"{dotted(path)!r}{_at(where)}: {dotted(path[:depth])!r} is a {kind}, no group")
                return None
            if name not in model.model_fields:
                if model.model_config.get("extra") == "allow":
                    return None
                known = [dotted((*path[:depth], other)) for other in model.model_fields]
                raise UnknownName("key", dotted(path[: depth + 1]), known, where)
            found = model.model_fields[name]
            model = _inner_model(found.annotation)
        return found

    def coerce(self, item: Assignment) -> object:
        """Return the value of an explicit assignment in the type of its field.

        Raises:
            UnknownName: An unknown key.
            ConfigError: A value of the wrong type.
        """
        found = self.field(item.path, item.source)
        if found is None or _has_validators(self.model, found):
            return item.value
        candidates = [item.value] if item.problem == "" else []
        if item.text is not None and not isinstance(item.value, str):
            candidates.append(item.text)
        complaints = [item.problem] if item.problem else []
        for value in candidates or [item.text]:
            result, complaint = _validated(found, value)
            if complaint == "":
                return value if _inner_model(found.annotation) is not None else result
            complaints.append(complaint)
        shown = item.text or repr(item.value)
        raise ConfigError(f"{dotted(item.path)!r}{_at(item.source)}: {complaints[0]}, got {shown}{range_hint(shown)}")

    def build(self, values: Mapping[str, object], where: Where) -> BaseModel:
        """Validate the merged values and return the frozen model.

        Args:
            values: Nested values, without what only the schema set.
            where: Says which layer set a path.

        Raises:
            ConfigError: Everything that is wrong, a line for each key, with the layer that set it.
        """
        from pydantic import ValidationError

        for path, _ in leaves(values):
            self.field(path, where(path))
        try:
            result = self.model.model_validate(_by_alias(self.model, values))
        except ValidationError as error:
            lines = []
            for problem in error.errors():
                path = tuple(problem["loc"])
                got = "" if problem["type"] == "missing" else f", got {problem['input']!r}"
                lines.append(f"{dotted(path)!r}{_at(where(path))}: {problem['msg']}{got}")
            raise ConfigError("\n".join(lines)) from error
        wrong = [f"{dotted(path)!r}{_at(where(path))}: {text}" for path, text in _crossed(values, result, ())]
        if wrong:
            raise ConfigError("\n".join(wrong))
        _freeze(result)
        return result

    def describe(self) -> dict[str, str]:
        """Return the descriptions of the fields that have one, by dotted key."""
        return dict(_descriptions(self.model, ()))


def _validated(field: FieldInfo, value: object) -> tuple[object, str]:
    """Return a field's value as its type has it, and what is wrong with it."""
    from pydantic import TypeAdapter, ValidationError

    metadata = tuple(field.metadata)
    annotation: Any = Annotated[(field.annotation, *metadata)] if metadata else field.annotation
    adapter: TypeAdapter[object] = TypeAdapter(annotation)
    try:
        result = adapter.validate_python(value)
    except ValidationError as error:
        return None, error.errors()[0]["msg"]
    return result, f"{type(value).__name__} is no {type(result).__name__}" if _crosses(value, result) else ""


def _at(where: str) -> str:
    return f" ({where})" if where else ""


def _defaults(model: type[BaseModel]) -> dict[str, object]:
    from pydantic_core import PydanticUndefined

    found: dict[str, object] = {}
    for name, info in model.model_fields.items():
        if info.default_factory is not None and info.default_factory_takes_validated_data:
            continue  # depends on other values: pydantic fills it in
        value = info.get_default(call_default_factory=True)
        if value is not PydanticUndefined:
            found[name] = _as_mapping(value)
    return found


def _as_mapping(value: object) -> object:
    if hasattr(type(value), "model_fields"):
        return {name: _as_mapping(item) for name, item in value.__dict__.items()}
    return value


def _descriptions(model: type[BaseModel], path: Path) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, info in model.model_fields.items():
        if info.description:
            found.append((dotted((*path, name)), info.description))
        inner = _inner_model(info.annotation)
        if inner is not None and inner is not model:
            found += _descriptions(inner, (*path, name))
    return found


def _inner_model(annotation: object) -> type[BaseModel] | None:
    """Return the one model an annotation means: ``M``, ``M | None``, ``Annotated[M, …]``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _inner_model(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        models = [_inner_model(part) for part in get_args(annotation) if part is not type(None)]
        return models[0] if len(models) == 1 else None
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        return cast("type[BaseModel]", annotation)
    return None


def _is_plain(annotation: object) -> bool:
    return annotation in (int, float, str, bool, bytes, list, tuple, set) or get_origin(annotation) in (
        list,
        tuple,
        set,
    )


def _name(annotation: object) -> str:
    return getattr(annotation, "__name__", str(annotation))


def _has_validators(model: type[BaseModel], info: FieldInfo) -> bool:
    """Whether the user's own code reads the field: then its raw value is theirs to judge."""
    if any(type(extra).__name__ in ("BeforeValidator", "PlainValidator", "WrapValidator") for extra in info.metadata):
        return True
    decorated = {
        name for found in model.__pydantic_decorators__.field_validators.values() for name in found.info.fields
    }
    return "*" in decorated or any(name in decorated for name, other in model.model_fields.items() if other is info)


def _crosses(value: object, result: object) -> bool:
    """Whether pydantic made a number or a truth of text, or a number of a truth: lax beyond what a config may be."""
    if isinstance(value, str | bytes):
        return isinstance(result, bool | int | float) and not isinstance(result, str)
    return isinstance(value, bool) and isinstance(result, int | float) and not isinstance(result, bool)


def _crossed(values: object, result: object, path: Path) -> list[tuple[Path, str]]:
    if isinstance(values, Mapping):
        found: list[tuple[Path, str]] = []
        for key, value in values.items():
            if isinstance(result, Mapping):
                inner = result.get(key)
            else:
                model: Any = type(result)
                info = getattr(model, "model_fields", {}).get(key)
                if info is None or _has_validators(model, info):
                    continue
                inner = getattr(result, str(key), None)
            found += _crossed(value, inner, (*path, key))
        return found
    if isinstance(values, list | tuple) and isinstance(result, list | tuple) and len(values) == len(result):
        return [
            found
            for index, (value, inner) in enumerate(zip(values, result, strict=True))
            for found in _crossed(value, inner, (*path, index))
        ]
    kind = type(result).__name__
    return [(path, f"{values!r} is a {type(values).__name__}, no {kind}")] if _crosses(values, result) else []


def _by_alias(model: type[BaseModel], values: Mapping[str, object]) -> dict[str, object]:
    """Rename fields to what ``model_validate`` expects."""
    found: dict[str, object] = {}
    for name, value in values.items():
        info = model.model_fields.get(name)
        if info is None:
            found[name] = value
            continue
        inner = _inner_model(info.annotation)
        alias = info.validation_alias if isinstance(info.validation_alias, str) else info.alias
        shown = name if alias is None or model.model_config.get("populate_by_name") else alias
        found[shown] = _by_alias(inner, value) if inner is not None and isinstance(value, Mapping) else value
    return found


@cache
def frozen_model(model: type[BaseModel]) -> type[BaseModel]:
    """Return ``model`` itself if it is frozen, else a subclass of the same name whose instances cannot be changed."""
    if model.model_config.get("frozen"):
        return model

    def same(self: Any, other: object) -> object:
        if not isinstance(other, model):
            return NotImplemented
        return self.__dict__ == other.__dict__ and self.__pydantic_extra__ == other.__pydantic_extra__

    def refuse(self: object, name: str, value: object = None) -> None:
        raise ConfigError(f"{name!r} cannot be changed: the config is frozen; cfg.model_copy(update={{{name!r}: …}})")

    def reduced(self: object, protocol: object) -> object:
        return _thawed, (model, self.__getstate__())

    body: dict[str, object] = {
        "__module__": model.__module__,
        "__qualname__": model.__qualname__,
        "__doc__": model.__doc__,
        "__eq__": same,
        "__hash__": None,
        "__setattr__": refuse,
        "__delattr__": refuse,
        "__reduce_ex__": reduced,
    }
    metaclass: Any = type(model)
    return cast("type[BaseModel]", metaclass(model.__name__, (model,), body))


def _freeze(value: object) -> None:
    if hasattr(type(value), "model_fields"):
        for inner in value.__dict__.values():
            _freeze(inner)
        model: object = type(value)
        object.__setattr__(value, "__class__", frozen_model(model))
    elif isinstance(value, list | tuple | set):
        for inner in value:
            _freeze(inner)
    elif isinstance(value, Mapping):
        for inner in value.values():
            _freeze(inner)


def _thawed(model: type[BaseModel], state: Any) -> BaseModel:
    value = model.__new__(model)
    value.__setstate__(state)
    _freeze(value)
    return value
