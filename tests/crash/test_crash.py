"""Real processes, killed with -9 at every statement of their journal and at random instants, children included."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Ended, Shape, Story, Zygote

from sweep import open_store
from sweep.store.runs import roots

SHAPES = [
    Shape("chain", units=10),
    Shape("loops", units=14),
    Shape("retries", units=10),
    Shape("sides", units=14, width=3),
    Shape("arrays", units=4),
    Shape("map_continue", units=23, width=3),
    Shape("map_stop", units=10, width=3),
    Shape("isolated", units=6, width=2, kills=4),
    Shape("plain", units=12),
    Shape("repeated", units=12),
    Shape("asha", units=16),
    Shape("hyperband", units=17),
    Shape("pbt", units=8),
    Shape("children", units=18, width=3, kills=4, naps=0.002),
    Shape("threads", units=30, width=4, exact=False, kills=4, naps=0.001),
    Shape("nested", units=23),
    Shape("nested_wide", units=23, width=9, exact=False, naps=0.001),
    Shape("pipelines", units=10),
]


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


@pytest.fixture(params=SHAPES, ids=lambda shape: shape.program)
def whole(request: pytest.FixtureRequest, zygote: Zygote, tmp_path: Path) -> tuple[Story, Ended]:
    """A run that nothing interrupts, and what it returns."""
    story = Story(request.param, zygote, tmp_path, "whole")
    told = story.session()
    story.check_whole()
    return story, told


def live(whole: tuple[Story, Ended], name: str, *deaths: dict[str, object]) -> int:
    """Run a shape that dies again and again, then let it come to its end; return how often it died."""
    uninterrupted, told = whole
    story = Story(uninterrupted.shape, uninterrupted.zygote, uninterrupted.directory, name)
    try:
        for death in deaths:
            ended = story.session(**death)  # type: ignore[arg-type]  # when it dies
            if not ended.killed:
                break
        else:
            ended = story.session()
        story.check_end(ended, uninterrupted, told)
    except AssertionError as error:
        raise AssertionError(f"{story.shape.program}, killed by {deaths}: {error}") from error
    return story.kills


def test_killed_at_its_statements(whole: tuple[Story, Ended], request: pytest.FixtureRequest) -> None:
    story, told = whole
    every = request.config.getoption("--crash-every")
    total = told.instants
    for index, at in enumerate(instants(total, total if every else story.shape.kills)):
        dice = random.Random(at)
        again = [{"at": dice.randint(1, total)} for _ in range(0 if every else index % 3)]  # by turns once, twice, three times
        assert live(whole, f"at{at}", {"at": at}, *again) > 0


def instants(total: int, kills: int) -> list[int]:
    """Return instants spread evenly over all there are, each at a random place of its part."""
    dice = random.Random(4)
    return [dice.randint(1 + index * total // kills, (index + 1) * total // kills) for index in range(kills)]


def test_killed_at_random_instants(whole: tuple[Story, Ended], request: pytest.FixtureRequest) -> None:
    story, _ = whole
    lines = 2 * story.shape.units
    for seed in range(int(request.config.getoption("--crash-rounds"))):
        dice = random.Random(f"{story.shape.program} {seed}")
        first = dice.randint(0, lines)
        deaths = [{"kill": (first + dice.randint(0, lines) * turn, dice.random() * 0.01)} for turn in range(4)]
        live(whole, f"random{seed}", *deaths)


def test_killed_before_there_are_tables_the_store_reads_as_empty(zygote: Zygote, tmp_path: Path) -> None:
    story = Story(SHAPES[0], zygote, tmp_path, "blank")
    assert story.session(at=1).killed
    assert story.store.exists()
    with open_store(story.store) as store:
        assert roots(store) == []
    assert story.session().returned["h"] == 10
