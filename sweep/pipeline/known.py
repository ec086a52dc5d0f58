"""What is known at one point of a pipeline while it is checked: fields, who gives them, models, names.

At a branch it is copied for each side and joined after them.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from sweep.errors import did_you_mean, near_miss
from sweep.pipeline.annotations import Annotation, describe
from sweep.pipeline.contracts import MISSING, FieldContract, OutputContract
from sweep.pipeline.nodes import Hooks
from sweep.pipeline.steps import Compiled, Doubt
from sweep.pipeline.subtypes import Verdict, subtype

__all__ = ["Giver", "Known", "attributes_read"]


@final
@dataclass(frozen=True, slots=True)
class Giver:
    """Who gives a model, and why it may be missing all the same."""

    name: str
    unsure: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Moment:
    """What was known at one point."""

    fields: dict[str, Annotation]
    givers: dict[str, str]
    models: dict[Annotation, list[Giver]]
    unsure: dict[str, str]


@final
class Known:
    """What is known so far, and the findings.

    Attributes:
        declared: Declared inputs, or None if inputs are found out.
        hooks: Global hooks, outermost first.
        out: What comes out: inputs, contracts, problems.
        fields: Field to annotation.
        givers: Field to who gives it, in words.
        models: Model to who gives it.
        unsure: Field that may be missing to why.
        found: Inputs that were found out.
        later: Fields that the bodies of the open loops give.
        where: Place of the node that is checked.
    """

    def __init__(self, declared: Mapping[str, Annotation] | None, hooks: Sequence[Hooks]) -> None:
        self.declared, self.hooks = declared, tuple(hooks)
        self.out = Compiled(hooks=tuple(hooks))
        self.fields: dict[str, Annotation] = {}
        self.givers: dict[str, str] = {}
        self.models: dict[Annotation, list[Giver]] = {}
        self.unsure: dict[str, str] = {}
        self.names: set[str] = set()
        self.found: set[str] = set()
        self.later: list[set[str]] = []
        self.where = ""

    def add_field(self, name: str, annotation: Annotation, giver: str) -> None:
        earlier = self.fields.get(name, MISSING)
        if earlier is Any and name in self.found:  # an input whose type nobody has said before
            self.out.inputs[name], self.givers[name] = annotation, giver
        elif earlier is not MISSING and earlier != annotation:
            self.problem(
                f"field {name!r} is {describe(earlier)} from {self.givers[name]} and {describe(annotation)} from {giver}; "
                "a field keeps its type: use one annotation, or two names"
            )
            return
        self.fields[name], self.givers[name] = annotation, giver
        self.out.contracts[name] = FieldContract(name, annotation)

    def problem(self, text: str) -> None:
        self.out.problems.append(text)

    def warn(self, text: str) -> None:
        self.out.warnings.append(Doubt(text, self.where))

    def unique(self, kind: str, name: str, where: str) -> None:
        self.where = where
        if name in self.names:
            self.problem(f"{kind} {name!r} ({where}): the name is taken; names are unique in their pipeline")
        self.names.add(name)

    def compare(self, given: Annotation, wanted: Annotation, text: str) -> None:
        verdict = subtype(given, wanted)
        if verdict is Verdict.REFUTED:
            self.problem(text)
        elif verdict is Verdict.UNPROVEN:
            self.warn(f"{text} (cannot be proved; checked at run time)")

    def add_input(self, name: str, annotation: Annotation, place: str) -> None:
        meant = near_miss(name, self.given())
        if self.declared is not None:
            self.problem(
                f"{place} {name!r}: nothing gives it, and it is no declared input{did_you_mean(name, self.fields)}"
            )
        elif meant is not None:
            self.problem(f"{place} {name!r}: nothing gives it; did you mean {meant!r}? (Pipeline({name}=…) insists)")
        else:
            self.out.inputs[name] = annotation
            self.found.add(name)
            self.add_field(name, annotation, "inputs")

    def given(self) -> list[str]:
        """Return the fields that something gives; inputs that were found out may well look alike (beta1, beta2)."""
        return [name for name in self.fields if name not in self.found]

    def predicate(self, place: str, predicate: Callable[..., object], later: set[str]) -> None:
        """Find fields that a predicate reads and nobody gives."""
        for name in attributes_read(predicate):
            if name in self.fields:
                continue
            if name in later:
                self.problem(
                    f"{place}: the predicate reads {name!r}, which only the loop's own body gives; "
                    "give a start value (an input or a field of the experiment)"
                )
            elif near_miss(name, self.given()) or self.declared is not None:
                self.problem(
                    f"{place}: the predicate reads {name!r}, which nobody gives{did_you_mean(name, self.fields)}"
                )
            else:
                self.add_input(name, Any, place)

    def give(self, contract: OutputContract, name: str, place: str, *, may_skip: bool) -> None:
        """Add what a stage gives."""
        why = f"stage {name!r}, which skip_if may skip"
        for field, annotation in contract.annotations.items():
            if not may_skip:
                self.unsure.pop(field, None)
            elif field not in self.fields:
                self.unsure[field] = why
            self.add_field(field, annotation, place)
            self.out.outputs[field] = annotation
        if contract.model is not None:
            self.models.setdefault(contract.model, []).append(Giver(name, why if may_skip else None))

    # ------------------------------------------------------------ branches

    def moment(self) -> Moment:
        """Return what is known now."""
        models = {model: list(givers) for model, givers in self.models.items()}
        return Moment(dict(self.fields), dict(self.givers), models, dict(self.unsure))

    def back_to(self, moment: Moment) -> None:
        """Forget what was given since; inputs that were found out since stay."""
        found = {name: self.fields[name] for name in self.found if name in self.fields}
        late = {name: annotation for name, annotation in found.items() if name not in moment.fields}
        self.fields = {**moment.fields, **late}
        self.givers = {**moment.givers, **dict.fromkeys(late, "inputs")}
        self.models = {model: list(givers) for model, givers in moment.models.items()}
        self.unsure = dict(moment.unsure)

    def join(self, one: Moment, other: Moment, name: str) -> None:
        """Know what holds whichever of two ways was taken; what only one gives may be missing."""
        why = f"branch {name!r}, of which only one side gives it"
        for field, annotation in one.fields.items():
            if other.fields.get(field, annotation) != annotation:
                self.problem(
                    f"field {field!r} is {describe(annotation)} from {one.givers[field]} and "
                    f"{describe(other.fields[field])} from {other.givers[field]}, where branch {name!r} joins; "
                    "a field keeps its type: use one annotation, or two names"
                )
        self.back_to(Moment({**other.fields, **one.fields}, {**other.givers, **one.givers}, {}, {}))
        for field in self.fields:
            whys = [way.unsure.get(field, why) for way in (one, other) if field not in way.fields or field in way.unsure]
            if whys and field not in self.found:
                self.unsure[field] = whys[0]
        for model in {**one.models, **other.models}:
            mine, theirs = one.models.get(model, []), other.models.get(model, [])
            unsure = [Giver(giver.name, giver.unsure or why) for giver in mine or theirs]  # only one side gives it
            self.models[model] = max(mine, theirs, key=len) if mine and theirs else unsure


def attributes_read(function: Callable[..., object]) -> list[str]:
    """Return the attributes that a plain function reads of its last positional argument.

    Best effort, from its bytecode: enough to name a misspelt field before anything runs.

    Example:
        >>> attributes_read(lambda s: s.task_idx < len(s.tasks))
        ['task_idx', 'tasks']
    """
    code = getattr(function, "__code__", None)
    if code is None or code.co_argcount == 0:
        return []
    names = code.co_varnames[: code.co_argcount]
    wanted, found, previous = names[-1], [], None
    for instruction in dis.get_instructions(code):
        loads = instruction.opname in ("LOAD_ATTR", "LOAD_METHOD")
        if loads and previous is not None and previous.argval == wanted and previous.opname.startswith("LOAD_FAST"):
            found.append(str(instruction.argval))
        previous = instruction
    return [name for name in dict.fromkeys(found) if not name.startswith("_")]
