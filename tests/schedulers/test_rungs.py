"""Rungs against brute force: levels, sizes, order, promotion, cost."""

from __future__ import annotations

import math
import time
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.schedulers.rungs import Rung, exact, hyperband_sizes, hyperband_table, levels, training_steps, whole_log

_FACTORS = st.sampled_from([2, 3, 4, 5, 7, 10])


@given(r=st.integers(1, 50), more=st.integers(0, 5000), eta=_FACTORS)
def test_levels_multiply_until_the_end(r: int, more: int, eta: int) -> None:
    steps = levels(r, r + more, eta)
    assert steps[0] == r
    assert steps[-1] == r + more
    assert list(steps) == sorted(set(steps))
    for low, high in pairwise(steps[:-1]):
        assert high == low * eta
    if len(steps) > 1:
        assert steps[-2] * eta >= steps[-1]


@given(k=st.integers(0, 12), eta=_FACTORS, r=st.integers(1, 9))
def test_a_power_is_never_miscounted(k: int, eta: int, r: int) -> None:
    """R = r * eta**k has k + 1 rungs; a logarithm of floats gets some of these wrong (243, 125, 1000 …)."""
    assert levels(r, r * eta**k, eta) == tuple(r * eta**i for i in range(k + 1))
    assert whole_log(Fraction(eta**k), Fraction(eta)) == k
    if k:
        assert whole_log(Fraction(eta**k) - Fraction(1, 10**9), Fraction(eta)) == k - 1


def test_the_case_that_others_get_wrong() -> None:
    assert levels(1, 243, 3) == (1, 3, 9, 27, 81, 243)
    assert int(math.log(243, 3)) == 4  # the float logarithm: one rung short


@given(
    r=st.integers(1, 20),
    more=st.integers(0, 500),
    eta=st.sampled_from([(3, 2), (5, 2), (12, 10), (10, 3), (27, 10)]),
)
def test_levels_of_a_factor_that_is_no_whole_number(r: int, more: int, eta: tuple[int, int]) -> None:
    up, down = eta
    expected, k = [], 0
    while r * up**k < (r + more) * down**k:
        step = r * up**k // down**k
        if step not in expected:
            expected.append(step)
        k += 1
    assert levels(r, r + more, up / down) == (*expected, r + more)


def test_factors_are_what_was_meant() -> None:
    for up, down in [(5, 2), (6, 5), (10, 3), (1, 3), (7, 1), (100, 29)]:
        assert exact(up / down) == Fraction(up, down)


@given(count=st.integers(1, 8), eta=_FACTORS)
def test_bracket_sizes(count: int, eta: int) -> None:
    expected = [-(-count * eta**s // (s + 1)) for s in range(count - 1, -1, -1)]
    assert list(hyperband_sizes(count, eta)) == expected


def test_the_table_of_the_paper() -> None:
    """Table 1 of arXiv 1603.06560, all five columns."""
    assert hyperband_table(1, 81, 3) == (
        ((81, 1), (27, 3), (9, 9), (3, 27), (1, 81)),
        ((34, 3), (11, 9), (3, 27), (1, 81)),
        ((15, 9), (5, 27), (1, 81)),
        ((8, 27), (2, 81)),
        ((5, 81),),
    )


@given(last=st.integers(1, 3000), eta=_FACTORS, first=st.integers(1, 10))
def test_hyperband_counts_down_from_the_end(last: int, eta: int, first: int) -> None:
    first = min(first, last)
    table = hyperband_table(first, last, eta)
    s_max = max(s for s in range(14) if first * eta**s <= last)
    assert len(table) == s_max + 1
    for bracket, s in zip(table, range(s_max, -1, -1), strict=True):
        n = -(-(s_max + 1) * eta**s // (s + 1))
        assert bracket == tuple((n // eta**i, last // eta ** (s - i)) for i in range(s + 1))
        assert bracket[0][1] >= first
        assert bracket[-1][1] == last
        assert bracket[-1][0] >= 1


@given(
    n=st.integers(1, 3000),
    rate=st.sampled_from([(3, 10), (1, 2), (1, 3), (29, 100), (7, 10)]),
    least=st.integers(1, 30),
    steps=st.integers(1, 100_000),
)
def test_ato_steps_have_one_entry_a_round(n: int, rate: tuple[int, int], least: int, steps: int) -> None:
    up, down = rate
    rounds, left = 0, n
    while left >= least and left > 0:
        rounds += 1
        left = left * up // down
    expected = [-(-steps * up**k // down**k) for k in range(rounds - 1, -1, -1)]
    assert training_steps(n, up / down, least, steps) == expected


_LOSSES = st.sampled_from([0.0, 0.5, 0.5, 1.0, -2.0, math.inf])


@given(st.lists(st.tuples(_LOSSES, st.booleans(), st.booleans()), max_size=60), _FACTORS)
def test_rung_against_a_plain_list(entries: list[tuple[float, bool, bool]], eta: int) -> None:
    """After each arrival: rank, and whether the best waiting trial is among the first floor(n / eta)."""
    rung = Rung(3)
    losses: dict[int, float] = {}
    waiting: set[int] = set()
    for number, (loss, waits, fails_later) in enumerate(entries):
        rank = rung.enter(number, loss)
        losses[number] = loss
        order = sorted(losses, key=lambda n: (losses[n], n))
        assert rank == order.index(number)
        if waits:
            rung.offer(number)
            if loss < math.inf:
                waiting.add(number)
        elif fails_later:
            rung.enter(number, math.inf)
            losses[number] = math.inf
        order = sorted(losses, key=lambda n: (losses[n], n))
        assert rung.numbers() == order
        keep = len(order) // eta
        promotable = [n for n in order if n in waiting]
        expected = promotable[0] if promotable and order.index(promotable[0]) < keep else None
        found = rung.best(keep)
        assert found == expected
        if found is not None:
            rung.take(found)
            waiting.discard(found)
    assert len(rung) == len(entries)


def test_taking_a_trial_that_is_not_the_best() -> None:
    rung = Rung(1)
    for number in range(6):
        rung.enter(number, float(number))
        rung.offer(number)
    rung.take(3)
    taken = []
    while (best := rung.best(6)) is not None:
        rung.take(best)
        taken.append(best)
    assert taken == [0, 1, 2, 4, 5]


def test_insert_and_decision_are_fast_at_ten_thousand_trials() -> None:
    rung = Rung(1)
    for number in range(10_000):
        rung.enter(number, (number * 7919 % 10_007) / 10_007)
        rung.offer(number)
    best = math.inf
    for attempt in range(5):  # the best of five: the machine may be busy with something else
        began = time.process_time()
        for number in range(10_000 + 200 * attempt, 10_200 + 200 * attempt):
            rung.enter(number, (number * 7919 % 10_007) / 10_007)
            rung.offer(number)
            found = rung.best(len(rung) // 3)
            assert found is not None
            rung.take(found)
        best = min(best, (time.process_time() - began) / 200)
    assert best <= 20e-6, f"{best * 1e6:.1f} us for insert and decision"


@pytest.mark.parametrize("number", [0, 1])
def test_a_second_place_is_not_given(number: int) -> None:
    rung = Rung(1)
    rung.enter(number, 0.5)
    rung.enter(number, 0.7)
    assert len(rung) == 1
    assert rung.loss(number) == 0.7
