"""What code is: a hash that changes when a function's meaning may have, and not otherwise.

A function is known by its syntax tree, read from its file: comments, formatting,
docstrings and its place in the file do not count. What it refers to by a global
name counts with it, as long as that stands in the same module: functions,
classes, constants, and what those refer to. From other modules only the import
statement counts. To this come the values that the live object carries (defaults,
closures, arguments of a ``partial``) and, for a method, the methods and class
attributes it reaches through ``self``.

Where there is no source that agrees with the live code (a REPL, a notebook,
``exec``, a file edited since its import), its bytecode stands in, without line
numbers and file names. Nothing is ever executed or imported.
"""

from __future__ import annotations

import ast
import dataclasses
import dis
import enum
import functools
import hashlib
import inspect
import json
import os
import pathlib
import sys
import tokenize
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, final

__all__ = ["Fingerprinter", "code_fingerprint", "diff_hint", "stable_json", "structure_hash"]

_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_POSITIONS = frozenset({"ctx", "kind", "type_comment", "lineno", "col_offset", "end_lineno", "end_col_offset"})
_GLOBAL_LOADS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_KIND_FLAGS = (
    inspect.CO_VARARGS
    | inspect.CO_VARKEYWORDS
    | inspect.CO_GENERATOR
    | inspect.CO_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
)
_DIGEST_BYTES = 16
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
_MAX_DEPTH = 20  # of captured values in captured values


def stable_json(data: object) -> str:
    """Return one text for one value: keys sorted, no spaces, tuples as lists.

    Args:
        data: ``None``, bools, numbers, strings, lists, tuples, and dicts with string keys.

    Raises:
        TypeError: Anything else, naming it (JSON would quietly turn a key ``1`` into ``"1"``).

    Example:
        >>> stable_json({"b": (1, 2.0), "a": None})
        '{"a":null,"b":[1,2.0]}'
    """
    _check_keys(data)
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def structure_hash(data: object) -> str:
    """Return the hash of :func:`stable_json`, 32 hexadecimal digits (BLAKE2b-128).

    Raises:
        TypeError: As :func:`stable_json`.

    Example:
        >>> structure_hash({"a": 1, "b": 2}) == structure_hash({"b": 2, "a": 1})
        True
    """
    return _hash(stable_json(data))


def code_fingerprint(function: object) -> str:
    """Return the identity of a callable's code, 32 hexadecimal digits.

    For several callables of the same modules :class:`Fingerprinter` reads each file once.

    Args:
        function: A function, lambda, method, class, ``functools.partial``,
            callable object or builtin.

    Example:
        >>> code_fingerprint(len) == code_fingerprint(max)
        False
    """
    return Fingerprinter().code_fingerprint(function)


def diff_hint(function: object) -> str:
    """Return where a callable is defined, ``"file.py:12"``, or its name where there is no file.

    Example:
        >>> diff_hint(len)
        'builtins.len'
    """
    plain = _unwrapped(function)
    if isinstance(plain, types.FunctionType):
        return f"{_file_of(plain)}:{plain.__code__.co_firstlineno}"
    kind = plain if isinstance(plain, type) else type(plain)
    module = _read_module(_file_of(kind))
    node = module.find_class(kind.__qualname__) if module is not None else None
    return f"{_file_of(kind)}:{node.lineno}" if node is not None else _name_of(plain)


@final
class Fingerprinter:
    """Fingerprints of many callables; each source file is read and parsed once, a function without a closure described once.

    Keep one for as long as code is not expected to change, for example one run.
    """

    def __init__(self) -> None:
        self._modules: dict[str, _Module | None] = {}
        self._known: dict[object, str] = {}

    def code_fingerprint(self, function: object) -> str:
        """Return the identity of a callable's code; see :func:`code_fingerprint`."""
        if not isinstance(function, types.FunctionType) or function.__closure__ is not None:
            return self._fingerprint(function)  # what it closes over may change
        if function not in self._known:
            self._known[function] = self._fingerprint(function)
        return self._known[function]

    def _fingerprint(self, function: object) -> str:
        walk = _Walk(self._module)
        root = walk.describe(function)
        return _hash("\n".join([root, *sorted(walk.finish())]))

    def _module(self, file: str) -> _Module | None:
        if file not in self._modules:
            self._modules[file] = _read_module(file)
        return self._modules[file]


@final
class _Walk:
    """One callable and all that it reaches, each described once.

    A description is text that holds no memory address, path or line number.
    """

    def __init__(self, module: Callable[[str], _Module | None]) -> None:
        self._module = module
        self._home: tuple[str, str] | None = None  # file and module of the root; cells of a notebook share the module
        self._seen: dict[object, object] = {}  # values are kept alive, so that an id is not used twice
        self._reached: list[str] = []

    def finish(self) -> list[str]:
        """Return the descriptions of everything reached beside the root."""
        return self._reached

    def _reach(self, key: object, alive: object, describe: Callable[[], str]) -> None:
        if key not in self._seen:
            self._seen[key] = alive
            self._reached.append(describe())

    # what a callable is

    def describe(self, what: object) -> str:
        """Return the description of a callable, and reach what it uses."""
        if isinstance(what, functools.partial):
            bound = self._value((what.args, what.keywords), 0)
            return f"partial({self.describe(what.func)},{bound})"
        if isinstance(what, types.MethodType):
            function: object = what.__func__
            if not isinstance(function, types.FunctionType):
                return f"method({self.describe(function)})"
            return f"method({self._function(function, _class_of_self(what.__self__))})"
        if isinstance(what, types.FunctionType):
            return self._function(what, None)
        if isinstance(what, type):
            return self._class(what)
        if isinstance(what, staticmethod | classmethod | functools.partialmethod | property):
            inner = what.fget if isinstance(what, property) else getattr(what, "__func__", getattr(what, "func", None))
            return f"{type(what).__name__}({self.describe(inner)})"
        wrapped = inspect.getattr_static(what, "__wrapped__", None)  # lru_cache and other wrappers written in C
        if wrapped is not None:
            return f"{type(what).__name__}({self.describe(wrapped)})"
        call = inspect.getattr_static(type(what), "__call__", None)
        if isinstance(call, types.FunctionType):
            state = self._value(getattr(what, "__dict__", {}), 0)
            return f"object({self._class(type(what))},{self._function(call, type(what))},{state})"
        return f"named({_name_of(what)})"

    def _function(self, function: types.FunctionType, owner: type | None) -> str:
        """Describe a Python function; ``owner`` is the class of its ``self``."""
        file = _file_of(function)
        wrapped = inspect.getattr_static(function, "__wrapped__", None)
        if isinstance(wrapped, types.FunctionType) and _file_of(wrapped) != file:
            return self._function(wrapped, owner)  # a decorator from elsewhere: its own code does not count
        self._home = self._home or (file, function.__module__)
        self._seen[(function.__code__, owner)] = function
        module = self._module(file)
        node = module.find(function.__code__) if module is not None else None
        if node is None or module is None:
            text = _bytecode(function.__code__)
            self._follow_live(function)
        else:
            text = _dump(node)
            self._follow_source(module, [*_globals_of(function.__code__), *_names_of_signature(node)])
        if owner is not None:
            self._follow_self(function, owner)
        carried = {
            "defaults": function.__defaults__,
            "keywords": function.__kwdefaults__,
            "closure": _closure(function),
            "wrapped": wrapped,
        }
        return f"function({text},{self._value({key: value for key, value in carried.items() if value}, 0)})"

    def _class(self, kind: type) -> str:
        """Describe a class: by its whole source where there is one, else method by method."""
        file = _file_of(kind)
        self._home = self._home or (file, kind.__module__)
        self._seen[id(kind)] = kind
        module = self._module(file)
        node = module.find_class(kind.__qualname__) if module is not None else None
        if node is None or module is None:
            members = {name: item for name, item in vars(kind).items() if not _is_machinery(name, item)}
            coded = any(True for item in members.values() for _ in _functions_in(item))
            return f"class({kind.__qualname__},{self._value(members, 0)})" if coded else f"named({_name_of(kind)})"
        self._follow_source(module, _globals_of_node(node))
        return f"class({_dump(node)})"

    # what it uses

    def _follow_source(self, module: _Module, names: Iterable[str]) -> None:
        """Reach the top-level statements of the module that bind these names, and what those use in turn."""
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if (module.file, name) in self._seen:
                continue
            self._seen[(module.file, name)] = None
            for statement in module.bindings.get(name, ()):
                self._reached.append(f"{name}={_dump(statement)}")
                waiting += _globals_of_node(statement)

    def _follow_live(self, function: types.FunctionType) -> None:
        """The same without source: reach live globals of the function's own module."""
        for name in _globals_of(function.__code__):
            if name not in function.__globals__:
                continue
            value = function.__globals__[name]
            if isinstance(value, types.FunctionType | type) and value.__module__ != function.__module__:
                continue
            self._reach((id(function.__globals__), name), value, functools.partial(self._named_value, name, value))

    def _named_value(self, name: str, value: object) -> str:
        return f"{name}={self._value(value, 0)}"

    def _follow_self(self, function: types.FunctionType, owner: type) -> None:
        """Reach the methods and plain class attributes that a method uses through ``self``, ``cls`` and ``super()``."""
        for name in _attributes_of(function.__code__):
            for base in owner.__mro__:
                member = vars(base).get(name)
                if member is None or base.__module__ != function.__module__:
                    continue
                describe = functools.partial(self._member, name, member, owner)
                self._reach((id(base), name, owner), member, describe)

    def _member(self, name: str, member: object, owner: type) -> str:
        for function in _functions_in(member):
            self._reach((function.__code__, owner), function, functools.partial(self._function, function, owner))
        plain = not list(_functions_in(member))
        return f".{name}={self._value(member, 0)}" if plain else f".{name}:{type(member).__name__}"

    # values that live objects carry

    def _value(self, value: Any, depth: int) -> str:
        """Describe a value that a function carries: plain data by value, code by fingerprint, the rest by type."""
        kind = type(value)  # exactly: a subclass may bring a __repr__ or __iter__ of its own, which must not run
        if depth > _MAX_DEPTH:
            return "…"
        if kind in _PLAIN or isinstance(value, enum.Enum):
            return f"{kind.__qualname__}:{_literal(value)}"
        if kind in (tuple, list):
            return f"{kind.__name__}[{','.join(self._value(item, depth + 1) for item in value)}]"
        if kind in (set, frozenset):
            return f"{kind.__name__}[{','.join(sorted(self._value(item, depth + 1) for item in value))}]"
        if kind is dict:
            pairs = (f"{self._value(key, depth + 1)}:{self._value(item, depth + 1)}" for key, item in value.items())
            return f"dict{{{','.join(sorted(pairs))}}}"
        if isinstance(value, pathlib.PurePath):
            return f"path:{value}"
        if isinstance(value, types.CodeType):
            return _bytecode(value)
        if isinstance(value, types.ModuleType):
            return f"module:{value.__name__}"
        return self._live(value, depth)

    def _live(self, value: object, depth: int) -> str:
        """Describe functions, classes and instances; each once, so that cycles end."""
        kind = type(value)
        if id(value) in self._seen:
            return f"again:{kind.__qualname__}"
        self._seen[id(value)] = value
        if isinstance(value, types.FunctionType | type):
            at_home = self._home is not None and (_file_of(value) == self._home[0] or value.__module__ == self._home[1])
            return self.describe(value) if at_home else f"named({_name_of(value)})"
        if isinstance(value, functools.partial | types.MethodType | staticmethod | classmethod | property):
            return self.describe(value)
        if dataclasses.is_dataclass(value):
            fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
            return f"{kind.__qualname__}({self._value(fields, depth + 1)})"
        return f"a {kind.__qualname__}"


# --- source ----------------------------------------------------------------------------------------------------------


@final
@dataclasses.dataclass(frozen=True)
class _Module:
    """A parsed source file.

    Attributes:
        file: Its path.
        bindings: Top-level statements by the names they bind.
        functions: Functions and lambdas by the line they start on (that of the first decorator).
        classes: Classes by qualified name.
        codes: The code objects that the source compiles to, by first line and name.
    """

    file: str
    bindings: Mapping[str, list[ast.stmt]]
    functions: Mapping[int, list[_Function]]
    classes: Mapping[str, ast.ClassDef]
    codes: Mapping[tuple[int, str], list[types.CodeType]]

    def find(self, code: types.CodeType) -> _Function | None:
        """Return the node that ``code`` was compiled from, or None if this source does not agree with it."""
        compiled = self.codes.get((code.co_firstlineno, code.co_qualname), [])
        alike = [other for other in compiled if _bytecode(other) == _bytecode(code) and _same_place(other, code)]
        nodes = self.functions.get(code.co_firstlineno, [])
        fitting: list[_Function]
        if code.co_name == "<lambda>":
            fitting = [node for node in nodes if isinstance(node, ast.Lambda) and _covers(node, code)]
            fitting = fitting[-1:]  # ast.walk goes outside in: the innermost
        else:
            fitting = [node for node in nodes if not isinstance(node, ast.Lambda) and node.name == code.co_name]
        return fitting[0] if alike and fitting else None

    def find_class(self, qualname: str) -> ast.ClassDef | None:
        """Return the definition of a class by qualified name."""
        return self.classes.get(qualname)


def _read_module(file: str) -> _Module | None:
    """Parse a file; None if it is none, or no Python."""
    try:
        with tokenize.open(file) as source:
            text = source.read()
        tree = ast.parse(text, file)
        whole = compile(tree, file, "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    codes: dict[tuple[int, str], list[types.CodeType]] = {}
    for code in _codes_in(whole):
        codes.setdefault((code.co_firstlineno, code.co_qualname), []).append(code)
    functions: dict[int, list[_Function]] = {}
    for node in ast.walk(tree):
        if isinstance(node, _Function):
            decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
            functions.setdefault(min([node.lineno, *(one.lineno for one in decorators)]), []).append(node)
    return _Module(file, _bindings(tree), functions, dict(_classes(tree, "")), codes)


def _bindings(tree: ast.Module) -> dict[str, list[ast.stmt]]:
    """Return the top-level statements by the names they bind, those inside ``if``, ``try``, ``for`` … whole."""
    found: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for part in _imports(statement) if isinstance(statement, ast.Import | ast.ImportFrom) else [statement]:
            for name in dict.fromkeys(_bound(part)):
                found.setdefault(name, []).append(part)
    return found


def _imports(statement: ast.Import | ast.ImportFrom) -> Iterator[ast.stmt]:
    """Yield one import for each imported name, so that its neighbours do not count."""
    for alias in statement.names:
        if isinstance(statement, ast.Import):
            yield ast.Import([alias])
        else:
            yield ast.ImportFrom(statement.module, [alias], statement.level)


def _bound(node: ast.AST) -> Iterator[str]:
    """Yield the names that a statement binds in its own scope."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
        return
    if isinstance(node, ast.Lambda):
        return
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
        yield node.id
    elif isinstance(node, ast.alias):
        yield (node.asname or node.name).partition(".")[0]
    elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
        base: ast.AST = node  # TABLE["a"] = 1 says something about TABLE
        while isinstance(base, ast.Subscript | ast.Attribute):
            base = base.value
        if isinstance(base, ast.Name):
            yield base.id
    for child in ast.iter_child_nodes(node):
        yield from _bound(child)


def _classes(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.ClassDef]]:
    """Yield the classes under ``node`` with their qualified names."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield prefix + child.name, child
            yield from _classes(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _classes(child, f"{prefix}{child.name}.<locals>.")
        else:
            yield from _classes(child, prefix)


def _dump(node: ast.AST) -> str:
    """Write a syntax tree without positions, docstrings, and what is empty (which versions of Python differ in)."""
    written: list[str] = []
    stack: list[object] = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, ast.AST):
            written.append(f"{type(item).__name__}(")
            stack.append(_CLOSE)
            for field, value in reversed(list(ast.iter_fields(item))):
                content = value[_docstrings(item) :] if field == "body" and isinstance(value, list) else value
                if field not in _POSITIONS and content is not None and content != []:
                    stack += [content, _Text(f"{field}=")]
        elif isinstance(item, list):
            written.append("[")
            stack.append(_Text("]"))
            stack.extend(reversed(item))
        else:
            written.append(item if isinstance(item, _Text) else _literal(item) + ",")
    return "".join(written)


class _Text(str):
    """A piece of output, as opposed to a string that stands in the tree."""

    __slots__ = ()


_CLOSE = _Text(")")


def _docstrings(node: ast.AST) -> int:
    """Return how many statements at the start of a body are its docstring: 0 or 1."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return 0
    first = node.body[0]
    return int(
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )


def _covers(node: ast.Lambda, code: types.CodeType) -> bool:
    """Tell whether every instruction of ``code`` stands within the body of ``node``."""
    body = node.body
    start, end = (body.lineno, body.col_offset), (body.end_lineno or 0, body.end_col_offset or 0)
    placed = False  # never, where Python runs with -X no_debug_ranges
    for line, end_line, column, end_column in code.co_positions():
        if line is None or end_line is None or column is None or end_column is None or (column, end_column) == (0, 0):
            continue  # made by the compiler, such as RESUME
        if (line, column) < start or (end_line, end_column) > end:
            return False
        placed = True
    return placed


# --- code objects ----------------------------------------------------------------------------------------------------


def _codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes_in(constant)


def _bytecode(code: types.CodeType) -> str:
    """Describe a code object without line numbers, file name and docstring."""
    constants = list(code.co_consts)
    if _has_docstring(code):
        constants[0] = None
    parts = [code.co_name, code.co_code.hex(), code.co_exceptiontable.hex(), str(code.co_flags & _KIND_FLAGS)]
    parts += [repr(names) for names in (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)]
    parts += [str(count) for count in (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)]
    parts += [_bytecode(item) if isinstance(item, types.CodeType) else _literal(item) for item in constants]
    return f"code({';'.join(parts)})"


def _has_docstring(code: types.CodeType) -> bool:
    """Tell whether the first constant is a docstring: then no instruction loads it."""
    if not code.co_consts or not isinstance(code.co_consts[0], str):
        return False
    loads = (step for step in dis.get_instructions(code) if step.opcode in dis.hasconst)
    return all(step.arg != 0 for step in loads)


def _same_place(one: types.CodeType, other: types.CodeType) -> bool:
    """Tell lambdas of one line apart: by the columns of their instructions."""
    return list(one.co_positions()) == list(other.co_positions())


def _globals_of(code: types.CodeType) -> list[str]:
    """Return the global names that a code object, or one inside it, loads."""
    found: dict[str, None] = {}
    for inner in _codes_in(code):
        for step in dis.get_instructions(inner):
            if step.opname in _GLOBAL_LOADS:
                found[str(step.argval)] = None
    return list(found)


def _globals_of_node(node: ast.stmt) -> list[str]:
    """Return the global names that a statement uses; the compiler knows scopes best."""
    module = ast.fix_missing_locations(ast.Module([node], []))
    try:
        return _globals_of(compile(module, "<fingerprint>", "exec", dont_inherit=True))
    except (SyntaxError, ValueError, RecursionError):  # for example a statement of `from __future__`
        return []


def _names_of_signature(node: _Function) -> list[str]:
    """Return the names in decorators, defaults and annotations, which ran when the function was made."""
    outside: list[ast.AST] = [node.args]
    if not isinstance(node, ast.Lambda):
        outside += [*node.decorator_list, *([node.returns] if node.returns else [])]
    return [name.id for part in outside for name in ast.walk(part) if isinstance(name, ast.Name)]


def _attributes_of(code: types.CodeType) -> list[str]:
    """Return the attribute names that are loaded, from whatever object."""
    found: dict[str, None] = {}
    for inner in _codes_in(code):
        for step in dis.get_instructions(inner):
            if step.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
                found[str(step.argval)] = None
    return list(found)


# --- live objects ----------------------------------------------------------------------------------------------------


def _class_of_self(owner: object) -> type:
    return owner if isinstance(owner, type) else type(owner)


def _functions_in(member: object) -> Iterator[types.FunctionType]:
    """Yield the functions inside a member of a class: itself, or those of a property or descriptor."""
    candidates: list[object]
    if isinstance(member, property):
        candidates = [member.fget, member.fset]
    elif isinstance(member, functools.cached_property):
        candidates = [member.func]
    else:
        candidates = [member.__func__ if isinstance(member, staticmethod | classmethod) else member]
    yield from (one for one in candidates if isinstance(one, types.FunctionType))


def _is_machinery(name: str, item: object) -> bool:
    """Tell whether Python itself put this into a class."""
    machinery = {
        "__module__",
        "__dict__",
        "__weakref__",
        "__doc__",
        "__qualname__",
        "__annotations__",
        "__firstlineno__",
    }
    return name in machinery or isinstance(item, types.GetSetDescriptorType | types.MemberDescriptorType)


def _closure(function: types.FunctionType) -> dict[str, object]:
    captured = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            captured[name] = cell.cell_contents
        except ValueError:  # not bound yet
            continue
    captured.pop("__class__", None)  # what `super()` needs
    return captured


def _unwrapped(function: object) -> object:
    """Return the function that a partial, method, wrapper or callable object comes down to."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, types.MethodType):
            function = function.__func__
        elif (wrapped := inspect.getattr_static(function, "__wrapped__", None)) is not None:
            function = wrapped
        else:
            return function


def _file_of(what: object) -> str:
    """Return the source file of a function or class.

    A script's own path may be relative to a directory that is not the current
    one any more; its module knows the absolute one.
    """
    if isinstance(what, types.FunctionType):
        own, file = what.__code__.co_filename, what.__globals__.get("__file__")
        return file if isinstance(file, str) and os.path.basename(file) == os.path.basename(own) else own
    file = getattr(sys.modules.get(what.__module__), "__file__", None)
    if isinstance(file, str):
        return file
    methods = (function for item in vars(what).values() for function in _functions_in(item))
    return next((_file_of(method) for method in methods if method.__module__ == what.__module__), "")


def _name_of(what: object) -> str:
    """Return the qualified name of something whose code cannot be seen, or that of its type."""
    named = what if hasattr(what, "__qualname__") else type(what)
    return f"{getattr(named, '__module__', None) or 'builtins'}.{named.__qualname__}"


def _literal(value: object) -> str:
    """Write a constant so that equal texts mean equal type and value (``1``, ``1.0`` and ``True`` differ)."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, int) and not isinstance(value, bool):
        return hex(value)  # decimal digits are limited, see sys.set_int_max_str_digits
    if isinstance(value, tuple):
        return f"({','.join(map(_literal, value))})"
    if isinstance(value, frozenset):
        return f"frozenset({','.join(sorted(map(_literal, value)))})"
    return repr(value)


def _check_keys(data: object) -> None:
    if isinstance(data, dict):
        for key, item in data.items():
            if not isinstance(key, str):
                raise TypeError(f"a key of JSON is a string, not {key!r} ({type(key).__name__})")
            _check_keys(item)
    elif isinstance(data, list | tuple):
        for item in data:
            _check_keys(item)


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()
