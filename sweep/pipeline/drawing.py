"""Pipelines for people: one line, an outline with all that is known, a Mermaid flowchart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import final

from sweep.pipeline.annotations import describe
from sweep.pipeline.nodes import HOOKS, Branch, Each, Loop, Node, Parallel
from sweep.pipeline.steps import BranchStep, LoopStep, ParallelStep, StageStep, Step, unstorable

__all__ = ["mermaid", "outline", "plan"]


def outline(nodes: Sequence[Node]) -> str:
    """Return nodes in one line."""
    return " -> ".join(map(_outlined, nodes))


def _outlined(node: Node) -> str:
    if isinstance(node, Loop):
        return f"{node.name}({outline(node.body)})*"
    if isinstance(node, Branch):
        return f"{node.name}({' | '.join(outline(side.nodes) or '-' for side in (node.then, node.otherwise))})"
    if isinstance(node, Parallel):
        return f"({' & '.join(stage.name for stage in node.stages)})"
    return f"{node.name}[]" if isinstance(node.what, Each) else node.name


# ---------------------------------------------------------------- plan


def plan(steps: Sequence[Step]) -> str:
    """Return compiled steps as an outline, a line for each: what it takes, gives, and whether it is kept."""
    return "\n".join(_lines(steps, ""))


def _lines(steps: Sequence[Step], indent: str) -> list[str]:
    lines: list[str] = []
    for step in steps:
        if isinstance(step, LoopStep):
            limit = "" if step.max_iterations is None else f", at most {step.max_iterations} times"
            lines += [f"{indent}loop {step.name}{limit}:", *_lines(step.body, indent + "  ")]
        elif isinstance(step, BranchStep):
            lines += [f"{indent}branch {step.name}, then:", *_lines(step.then, indent + "  ")]
            if step.otherwise:
                lines += [f"{indent}branch {step.name}, otherwise:", *_lines(step.otherwise, indent + "  ")]
        elif isinstance(step, ParallelStep):
            lines += [f"{indent}at once:", *_lines(step.stages, indent + "  ")]
        else:
            lines += _stage_lines(step, indent)
    return lines


def _stage_lines(step: StageStep, indent: str) -> list[str]:
    items = step.items
    takes = ", ".join(binding.parameter for binding in (step if items is None else items.step).bindings)
    head = f"{step.name}({takes})"
    if items is not None:
        whole = f"{step.name}({', '.join(filter(None, [items.parameter, takes]))})"
        policy = ", failed ones are None" if items.goes_on else ""
        head = f"map {whole} over {items.over}, {items.concurrency} at once{policy}"
    gives = {} if step.contract is None else step.contract.annotations
    given = ", ".join(f"{name}: {describe(annotation)}" for name, annotation in gives.items()) or "nothing"
    hooks = f"{_hooks(step)}{'' if items is None else _hooks(items.step, 'each: ')}"
    lost = unstorable(step.contract) if step.checkpointed else ""
    kept = f"  (not kept, resumes before {step.name}: {lost})" if lost else "" if step.checkpointed else "  (not kept)"
    nested = (step if items is None else items.step).unit.nested
    inner = [] if nested is None else _lines(nested.steps, indent + "  ")
    return [f"{indent}{head} -> {given}{hooks}{kept}", *inner]


def _hooks(step: StageStep, label: str = "") -> str:
    names = " ".join(name for name in HOOKS if name in step.hooks and step.hooks[name] is not False)
    return f"  [{label}{names}]" if names else ""


# ---------------------------------------------------------------- flowchart


def mermaid(steps: Sequence[Step]) -> str:
    """Return compiled steps as a Mermaid flowchart; edges carry the contracts."""
    drawing = _Drawing()
    drawing.sequence(steps, "    ")
    return "\n".join(["flowchart TD", *drawing.nodes, *drawing.edges])


@final
class _Drawing:
    """A flowchart as it grows: ``ends`` are the nodes from which the next arrow starts, with its label."""

    def __init__(self) -> None:
        self.nodes: list[str] = []
        self.edges: list[str] = []
        self.ends: list[tuple[str, str]] = []
        self.count = 0

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count - 1}"

    def sequence(self, steps: Sequence[Step], indent: str) -> None:
        for step in steps:
            if isinstance(step, LoopStep):
                self.loop(step, indent)
            elif isinstance(step, BranchStep):
                self.branch(step, indent)
            elif isinstance(step, ParallelStep):
                self.parallel(step, indent)
            else:
                self.stage(step, indent)

    def stage(self, step: StageStep, indent: str) -> None:
        name, label, items = self.name("s"), _text(step.name), step.items
        if items is not None:
            label = f"map {label} over {_text(items.over)}"
        nested = (step if items is None else items.step).unit.nested
        if nested is not None and nested.steps:
            self.nodes.append(f'{indent}subgraph {name}["{label}"]')
            outer, self.ends = self.ends, []
            self.sequence(nested.steps, indent + "    ")
            self.ends = outer
            self.nodes.append(f"{indent}end")
        else:
            left, right = ("[[", "]]") if items is not None else ("[", "]")
            self.nodes.append(f'{indent}{name}{left}"{label}"{right}')
        self.arrow(name)
        fields = {} if step.contract is None else step.contract.annotations
        self.ends = [(name, ", ".join(f"{field}: {describe(one)}" for field, one in fields.items()))]

    def loop(self, step: LoopStep, indent: str) -> None:
        name = self.name("l")
        self.nodes.append(f'{indent}subgraph {name}["loop {_text(step.name)}"]')
        before = len(self.nodes)
        self.sequence(step.body, indent + "    ")
        first = self.nodes[before].strip().removeprefix("subgraph ")
        self.nodes.append(f"{indent}end")
        target = re.split(r"[\[{]", first)[0]
        for end, _ in self.ends:
            self.edges.append(f'    {end} -.->|"again"| {target}')

    def branch(self, step: BranchStep, indent: str) -> None:
        name = self.name("b")
        self.nodes.append(f'{indent}{name}{{"{_text(step.name)}"}}')
        self.arrow(name)
        ends: list[tuple[str, str]] = []
        for label, side in (("then", step.then), ("otherwise", step.otherwise)):
            self.ends = [(name, label)]
            self.sequence(side, indent)
            ends += self.ends
        self.ends = ends

    def parallel(self, step: ParallelStep, indent: str) -> None:
        start, ends = self.ends, list[tuple[str, str]]()
        for stage in step.stages:
            self.ends = start
            self.stage(stage, indent)
            ends += self.ends
        self.ends = ends

    def arrow(self, target: str) -> None:
        for source, label in self.ends:
            text = f'|"{label}"| ' if label else ""
            self.edges.append(f"    {source} -->{text or ' '}{target}")


def _text(name: str) -> str:
    return name.replace('"', "'")
