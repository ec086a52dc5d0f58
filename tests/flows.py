"""What the tests of control flow and of maps share."""

from __future__ import annotations

import pytest

from sweep import Pipeline, errors


class Gone(Exception):
    """An error of the tests' own."""


def problems(pipeline: Pipeline) -> str:
    """Return what check() says."""
    with pytest.raises(errors.ContractError) as found:
        pipeline.check()
    return "\n".join(found.value.problems)


def one(x: int) -> int:
    """Give an int."""
    return x + 1


def text(x: int) -> str:
    """Give a text."""
    return str(x)
