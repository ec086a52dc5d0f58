"""Pipelines as Mermaid flowcharts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from sweep.pipeline.annotations import describe
from sweep.pipeline.checker import LoopStep, StageStep, Step

__all__ = ["mermaid"]


def mermaid(steps: Sequence[Step]) -> str:
    """Return compiled steps as a Mermaid flowchart; edges carry the contracts."""
    drawing = _Drawing()
    drawing.sequence(steps, "    ")
    return "\n".join(["flowchart TD", *drawing.nodes, *drawing.edges])


@final
class _Drawing:
    def __init__(self) -> None:
        self.nodes: list[str] = []
        self.edges: list[str] = []
        self.last: tuple[str, str] | None = None
        self.count = 0

    def sequence(self, steps: Sequence[Step], indent: str) -> None:
        for step in steps:
            if isinstance(step, LoopStep):
                self.loop(step, indent)
            else:
                self.stage(step, indent)

    def stage(self, step: StageStep, indent: str) -> None:
        name, label = f"s{self.count}", step.name.replace('"', "'")
        self.count += 1
        if step.unit.nested is not None:
            self.nodes.append(f'{indent}subgraph {name}["{label}"]')
            outer, self.last = self.last, None
            self.sequence(step.unit.nested.steps, indent + "    ")
            self.last = outer
            self.nodes.append(f"{indent}end")
        else:
            self.nodes.append(f'{indent}{name}["{label}"]')
        self.arrow(name)
        fields = {} if step.contract is None else step.contract.annotations
        self.last = (name, ", ".join(f"{field}: {describe(ann)}" for field, ann in fields.items()))

    def loop(self, step: LoopStep, indent: str) -> None:
        name = f"l{self.count}"
        self.count += 1
        first = f"s{self.count}" if isinstance(step.body[0], StageStep) else f"l{self.count}"
        self.nodes.append(f'{indent}subgraph {name}["loop {step.name}"]')
        self.sequence(step.body, indent + "    ")
        self.nodes.append(f"{indent}end")
        if self.last is not None:
            self.edges.append(f'    {self.last[0]} -.->|"again"| {first}')

    def arrow(self, target: str) -> None:
        if self.last is not None:
            source, label = self.last
            text = f'|"{label}"| ' if label else ""
            self.edges.append(f"    {source} -->{text or ' '}{target}")
