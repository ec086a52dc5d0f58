"""The search space, against brute force, scipy and what a user would write first."""

# mypy: disable-error-code="arg-type, import-untyped"
# Wrong arguments are what half of these tests are about; scipy has no stubs here.

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from sweep.errors import SpaceError
from sweep.space import (
    Choice,
    Constant,
    Distribution,
    Integer,
    LogInteger,
    LogitUniform,
    LogNormal,
    LogUniform,
    Normal,
    Ordinal,
    SearchSpace,
    Uniform,
    flatten,
    nest,
)

# Spaces of any shape, for properties


def plain_values() -> st.SearchStrategy[Any]:
    scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False).map(abs) | st.text(max_size=3)
    return st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.lists(inner, max_size=2).map(tuple)
            | st.dictionaries(st.text(max_size=2) | st.sampled_from(["$tuple", "$float"]), inner, max_size=2)
        ),
        max_leaves=4,
    )


def exact(value: Any) -> str:
    """Another way than the library's to tell values apart, types included."""
    return (
        f"{type(value).__name__}:{value!r}" if not isinstance(value, dict) else repr(sorted(map(repr, value.items())))
    )


def ordered(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    return st.tuples(values, values).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: tuple(sorted(pair)))


finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=5e-324, allow_infinity=False)
small = st.integers(-40, 40)
nums = st.integers(1, 4)
distributions: st.SearchStrategy[Distribution] = st.one_of(
    st.builds(lambda b, n: Uniform(b[0], b[1], num=n), ordered(finite), nums),
    st.builds(lambda b, n: LogUniform(b[0], b[1], num=n), ordered(positive), nums),
    st.builds(lambda b, n: LogitUniform(b[0], b[1], num=n), ordered(st.floats(5e-324, 1, exclude_max=True)), nums),
    st.builds(lambda b: Integer(*b), ordered(small)),
    st.builds(lambda low, step, n: Integer(low, low + step * n, step), small, st.integers(1, 9), nums),
    st.builds(lambda b: LogInteger(*b), ordered(st.integers(1, 60))),
    st.builds(lambda b, n: LogInteger(*b, num=n), ordered(st.integers(1, 2**40)), nums),
    st.builds(Choice, st.lists(plain_values(), min_size=1, max_size=4, unique_by=exact)),
    st.builds(Ordinal, st.lists(st.text(max_size=2), min_size=1, max_size=4, unique=True)),
    st.builds(Normal, st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), nums),
    st.builds(LogNormal, st.floats(-100, 100), st.floats(1e-3, 50), nums),
    st.builds(Constant, plain_values()),
)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """A space with conditions at any depth; names in an order of their own."""
    names = draw(st.permutations(["b", "a", "g.d", "g.c", "e"]))[: draw(st.integers(1, 5))]
    mapping: dict[str, Any] = {}
    for name in names:
        part = draw(distributions)
        when = []
        for parent in draw(st.lists(st.sampled_from(sorted(mapping)), max_size=2, unique=True)) if mapping else []:
            of = mapping[parent]
            if isinstance(of, Choice | Ordinal | Integer | LogInteger | Constant):
                grid = of.grid()
                assert grid is not None
                some = draw(st.lists(st.sampled_from(list(grid)[:50]), min_size=1, max_size=2))
                when.append((parent, some))
        mapping[name] = dataclasses.replace(part, when=when)
    return SearchSpace(mapping)


@given(spaces(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_every_sample_is_in_the_space_and_survives_json_and_the_unit_cube(space: SearchSpace, rng: Any) -> None:
    params = space.sample(rng)
    assert space.validate(params) == params
    assert space.contains(nest(params))
    again = SearchSpace.from_json(space.model_dump_json())
    assert again == space
    assert again.contains(params)
    assert again.model_dump_json() == space.model_dump_json()
    unit = space.to_unit(params)
    assert len(unit) == len(space.dimensions)
    assert all(0 <= u <= 1 for u in unit)
    back = space.from_unit(unit)
    assert list(back) == list(params)
    for name, value in params.items():
        if type(value) is float and not isinstance(space[name], Choice | Ordinal | Constant):
            assert same_float(space[name], value, back[name]), (space[name], value, back[name])
        else:
            assert exact(back[name]) == exact(value)


def same_float(part: Distribution, value: float, back: float) -> bool:
    if isinstance(part, Uniform):
        return abs(back / 2 - value / 2) <= 1e-15 * (part.high / 2 - part.low / 2) + 1e-15 * abs(value)
    if isinstance(part, LogUniform):
        return math.isclose(back, value, rel_tol=1e-9) if part.high / part.low > 1.001 else part.contains(back)
    if isinstance(part, Normal):
        return abs(back - value) <= 1e-5 * part.std + 1e-14 * abs(value)
    if isinstance(part, LogitUniform):
        return abs(back - value) <= 1e-9 * min(value, 1 - value) + 3e-16 if part.high - part.low > 1e-3 else part.contains(back)
    assert isinstance(part, LogNormal)
    return abs(math.log(back) - math.log(value)) <= 1e-5 * part.std + 1e-13 * abs(math.log(value))


@given(spaces(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_every_neighbour_is_in_the_space(space: SearchSpace, rng: Any) -> None:
    params = space.sample(rng)
    for _ in range(5):
        params = space.perturb(params, rng, resample=0.1)
        assert space.validate(params) == params


def brute_grid(space: SearchSpace) -> list[str]:
    """Every combination of every grid, inactive ones removed, duplicates dropped."""
    grids = [list(part.grid() or ()) for part in space.values()]
    found = set()
    for values in itertools.product(*grids):
        params: dict[str, Any] = {}
        for (name, part), value in zip(space.items(), values, strict=True):
            holds = [p in params and exact(params[p]) in [exact(v) for v in vs] for p, vs in part.conditions]
            if all(holds):
                params[name] = value
        found.add(repr([(name, exact(value)) for name, value in params.items()]))
    return sorted(found)


@given(spaces())
@settings(max_examples=150, deadline=None)
def test_grid_is_each_combination_once_and_its_size_is_known(space: SearchSpace) -> None:
    assume(math.prod(len(part.grid() or ()) for part in space.values()) <= 5000)
    combinations = list(space.grid())
    assert sorted(repr([(n, exact(v)) for n, v in params.items()]) for params in combinations) == brute_grid(space)
    assert space.grid_size() == len(combinations)
    assert all(space.contains(params) for params in combinations)


# Distributions


@pytest.mark.parametrize("low", [-sys.float_info.max, -1.0, 0.0, 5e-324, 1e-300, 0.1, 1.0, 1e16])
@pytest.mark.parametrize("high", [math.nextafter(0.1, 1), math.nextafter(1.0, 2), 1e16 + 2, 1e300, sys.float_info.max])
@pytest.mark.parametrize("kind", [Uniform, LogUniform])
def test_floats_never_leave_their_bounds(kind: type[Uniform | LogUniform], low: float, high: float) -> None:
    if low >= high or (kind is LogUniform and low <= 0):
        return
    space = SearchSpace({"x": kind(low, high, num=7)})
    rng = random.Random(1)
    points = [0.0, 1.0, 5e-324, math.nextafter(1, 0), *(rng.random() for _ in range(200))]
    for u in points:
        x = space.from_unit([u])["x"]
        assert low <= x <= high
        assert low <= space.perturb({"x": x}, rng)["x"] <= high
        assert 0 <= space.to_unit({"x": x})[0] <= 1
    assert (space.from_unit([0])["x"], space.from_unit([1])["x"]) == (low, high)
    grid = [params["x"] for params in space.grid()]
    assert (grid[0], grid[-1]) == (low, high)
    assert grid == sorted(set(grid))


def test_the_widest_range_is_still_uniform() -> None:
    most = sys.float_info.max
    space = SearchSpace({"x": Uniform(-most, most)})
    for u in (0.25, 0.5, 0.75):
        assert space.from_unit([u])["x"] == pytest.approx((2 * u - 1) * most)
        assert space.to_unit({"x": (2 * u - 1) * most}) == [u]


def test_samples_follow_their_distributions() -> None:
    """Kolmogorov-Smirnov against scipy, with seeded draws."""
    from scipy import stats

    rng = random.Random(7)
    for part, law in [
        (Uniform(-2, 5), stats.uniform(-2, 7)),
        (LogUniform(1e-5, 1e-1), stats.loguniform(1e-5, 1e-1)),
        (LogUniform(1e-300, 1e300), stats.uniform(-300, 600)),
        (Normal(3, 2), stats.norm(3, 2)),
        (LogNormal(1, 0.5), stats.lognorm(0.5, scale=math.e)),
    ]:
        space = SearchSpace({"x": part})
        draws = [space.sample(rng)["x"] for _ in range(4000)]
        if part == LogUniform(1e-300, 1e300):
            draws = [math.log10(x) for x in draws]
        assert stats.kstest(draws, law.cdf).pvalue > 0.01, part


def test_log_odds_are_uniform() -> None:
    """Nine, ninety-nine and 999 times as likely as not lie about evenly, whatever is near the other end."""
    from scipy import stats

    part = LogitUniform(0.1, 1 - 1e-5)
    for u in (0.1, 0.5, 0.9):
        odds = stats.loguniform(1 / 9, (1 - 1e-5) / 1e-5).ppf(u)
        assert part.from_unit(u) == pytest.approx(odds / (1 + odds), rel=1e-12)
        assert part.to_unit(part.from_unit(u)) == pytest.approx(u)
    nines = [part.to_unit(1 - 10.0**-n) for n in range(1, 6)]
    steps = [later - earlier for earlier, later in itertools.pairwise(nines)]
    assert steps == pytest.approx([steps[-1]] * 4, rel=0.05)
    half = SearchSpace({"p": LogitUniform(0.01, 0.99)})
    assert half.perturb({"p": 0.9}, random.Random(0), [2.0])["p"] == pytest.approx(18 / 19)  # odds of 9 are doubled
    assert half.perturb({"p": 0.985}, random.Random(0), [9.0])["p"] == 0.99


def test_units_are_cumulative_probabilities() -> None:
    from scipy import stats

    for x in (-7.0, -1.0, 0.0, 2.5, 5.0):
        assert Normal(1, 2).to_unit(1 + 2 * x) == pytest.approx(stats.norm.cdf(x), rel=1e-12)
        assert LogNormal(1, 2).to_unit(math.exp(1 + 2 * x)) == pytest.approx(stats.norm.cdf(x), rel=1e-10)
    assert SearchSpace({"x": Normal(0, 1)}).from_unit([1.0])["x"] == pytest.approx(8, abs=0.05)
    assert SearchSpace({"x": Normal(0, 1)}).from_unit([0.0])["x"] == pytest.approx(-8, abs=0.05)


def test_whole_numbers_reach_both_bounds_with_the_right_frequency() -> None:
    from scipy import stats

    rng = random.Random(3)
    space = SearchSpace(
        {"i": Integer(-2, 3), "s": Integer(1, 12, step=5), "l": LogInteger(1, 8), "c": Choice(["x", "y", "z"])}
    )
    draws = [space.sample(rng) for _ in range(6000)]
    for name, values in {"i": range(-2, 4), "s": (1, 6, 11), "c": "xyz"}.items():
        counts = Counter(params[name] for params in draws)
        assert set(counts) == set(values)
        assert stats.chisquare([counts[v] for v in values]).pvalue > 0.01
    counts = Counter(params["l"] for params in draws)
    expected = [6000 * math.log((k + 0.5) / (k - 0.5)) / math.log(8.5 / 0.5) for k in range(1, 9)]
    assert stats.chisquare([counts[k] for k in range(1, 9)], expected).pvalue > 0.01


@given(st.integers(-(2**45), 2**45), st.integers(1, 2**40 - 1), st.floats(0, 1))
@example(0, 2**40 - 1, 1.0)
def test_wide_whole_numbers_return_from_the_unit_cube_exactly(low: int, width: int, share: float) -> None:
    linear = SearchSpace({"n": Integer(low, low + width)})
    n = low + round(share * width)
    assert linear.from_unit(linear.to_unit({"n": n})) == {"n": n}
    log = SearchSpace({"n": LogInteger(1, width + 1)})
    n = 1 + round(share * width)
    assert log.from_unit(log.to_unit({"n": n})) == {"n": n}


def test_grids_of_numbers() -> None:
    def grid(part: Distribution) -> list[Any]:
        return [params["x"] for params in SearchSpace({"x": part}).grid()]

    assert grid(Uniform(0, 1, num=11)) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert grid(LogUniform(1e-5, 1e-1, num=5)) == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    assert grid(Uniform(0, 4, num=1)) == [2.0]
    assert grid(Integer(0, 10, num=3)) == [0, 5, 10]
    assert grid(Integer(0, 2, num=9)) == [0, 1, 2]
    assert grid(Integer(1, 10, step=4)) == [1, 5, 9]
    assert grid(LogInteger(1, 4)) == [1, 2, 3, 4]
    assert grid(LogInteger(1, 100, num=3)) == [1, 10, 100]
    assert grid(LogInteger(1, 4, num=3)) == [1, 2, 4]
    assert grid(LogInteger(1, 8, num=8)) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert grid(Normal(5, 1, num=1)) == [5.0]
    assert grid(Normal(0, 1, num=2)) == pytest.approx([-0.6744898, 0.6744898])


def test_a_grid_of_continuous_parameters_says_which_need_num() -> None:
    space = SearchSpace({"lr": LogUniform(1e-4, 1e-1, when=("c", [1])), "x": Uniform(0, 1), "c": Choice([1, 2])})
    with pytest.raises(SpaceError, match=r"'lr'.*LogUniform\(0.0001, 0.1, num=5\)(.|\n)*'x'.*num=5") as caught:
        space.grid()
    assert caught.value.parameter == "lr"
    with pytest.raises(SpaceError, match="'lr'"):
        space.grid_size()


def test_a_huge_grid_is_counted_and_begun_at_once() -> None:
    space = SearchSpace(
        {f"i{n}": Integer(0, 10**9) for n in range(30)} | {"z": Choice(["a", "b"], when=("i0", [3, 4]))}
    )
    count = 10**9 + 1
    assert space.grid_size() == count**29 * (count + 2)
    assert next(space.grid())["i29"] == 0
    pairs = {f"p{n}": Choice([1, 2]) for n in range(60)}
    for child in "cz":
        children = {f"{child}{n}": Choice([1, 2, 3], when=(f"p{n}", 1)) for n in range(60)}
        assert SearchSpace(pairs | children).grid_size() == 4**60


# Conditions

CONDITIONAL = SearchSpace(
    {
        "opt": Choice(["sgd", "adam"]),
        "momentum": Uniform(0, 1, when=("opt", ["sgd"])),
        "nesterov": Choice([True, False], when=("opt", "sgd")),
        "damping": Uniform(0, 1, num=3, when=("nesterov", [False])),
        "both": Integer(1, 2, when=[("opt", "sgd"), ("nesterov", True)]),
    }
)


def test_conditions_on_conditions() -> None:
    rng = random.Random(2)
    shapes = {frozenset(CONDITIONAL.sample(rng)) for _ in range(100)}
    assert shapes == {
        frozenset({"opt"}),
        frozenset({"opt", "momentum", "nesterov", "damping"}),
        frozenset({"opt", "momentum", "nesterov", "both"}),
    }
    assert CONDITIONAL.to_unit({"opt": "adam"}) == [0.75, 0.5, 0.5, 0.5, 0.5]
    assert CONDITIONAL.from_unit([0.75, 0.1, 0.1, 0.1, 0.1]) == {"opt": "adam"}
    names = CONDITIONAL.names
    assert all(names.index(p) < names.index(n) for n in names for p, _ in CONDITIONAL[n].conditions)


def test_a_parent_is_looked_for_beside_the_parameter_and_then_outwards() -> None:
    space = SearchSpace(
        {"kind": Choice([1, 2]), "a": {"kind": Choice([3, 4]), "x": Uniform(0, 1, when=("kind", 3))},
         "b": {"c": {"x": Uniform(0, 1, when=("kind", 1)), "y": Uniform(0, 1, when=("a.kind", 4))}}}
    )  # fmt: skip
    assert space["a.x"].conditions == (("a.kind", (3,)),)
    assert space["b.c.x"].conditions == (("kind", (1,)),)
    assert space["b.c.y"].conditions == (("a.kind", (4,)),)
    assert SearchSpace.from_json(space.model_dump_json()) == space
    odd = SearchSpace({"m": {"m": {"k": Choice([1, 2])}, "k": Choice([1, 2]), "x": Uniform(0, 1, when=("k", 1))}})
    assert odd["m.x"].conditions == (("m.k", (1,)),)
    assert SearchSpace.from_json(odd.model_dump_json()) == odd
    with pytest.raises(SpaceError, match=r"'a\.x': when names 'a\.k' twice"):
        SearchSpace({"a": {"k": Choice([1, 2]), "x": Uniform(0, 1, when=[("k", 1), ("a.k", 2)])}})


def test_validate_names_every_problem() -> None:
    good: dict[str, Any] = {"opt": "sgd", "momentum": 1, "nesterov": True, "both": 2}
    assert CONDITIONAL.validate(good) == good
    assert type(CONDITIONAL.validate(good)["momentum"]) is float
    changes: list[tuple[dict[str, Any], list[str]]] = [
        ({"opt": "sdg"}, ["'opt': got 'sdg' (str), expected one of 'sgd', 'adam'"]),
        ({"momentum": 1.5}, ["'momentum': got 1.5 (float), expected a float in [0.0, 1.0]"]),
        ({"momentum": True}, ["'momentum': got True (bool)"]),
        ({"momentum": math.nan}, ["'momentum': got nan"]),
        ({"momentum": "0.5"}, ["'momentum': got '0.5' (str)"]),
        ({"both": 2.0}, ["'both': got 2.0 (float), expected a whole number (int) in [1, 2]"]),
        ({"both": True}, ["'both': got True (bool)"]),
        ({"nesterov": 1}, ["'nesterov': got 1 (int), expected one of True, False"]),
        ({"damping": 0.5}, ["'damping': is given but not active: it needs 'nesterov' in [False]"]),
        ({"opt": "adam"}, ["3 problems", "'momentum': is given but not active", "'both': is given"]),
        ({"momentun": 1}, ["'momentun': is not in the search space; did you mean 'momentum'"]),
        ({"both": None, "zzz": 1}, ["2 problems", "'both': got None", "'zzz': is not"]),
    ]
    for change, messages in changes:
        wrong = {**good, **change}
        assert not CONDITIONAL.contains(wrong)
        with pytest.raises(SpaceError) as caught:
            CONDITIONAL.validate(wrong)
        for message in messages:
            assert message in str(caught.value)
        assert ("problems" in str(caught.value)) == (len(messages) > 1)
    del good["both"]
    with pytest.raises(SpaceError, match="'both': is missing, expected a whole number"):
        CONDITIONAL.to_unit(good)
    with pytest.raises(SpaceError, match="a mapping"):
        CONDITIONAL.validate([1])


@pytest.mark.parametrize(
    ("u", "message"),
    [([0.5], "5 coordinates"), ([0.5] * 6, "got 6"), ([1.5] + [0.5] * 4, "'opt': coordinate 1.5"),
     ([math.nan] + [0.5] * 4, "coordinate nan")],
)  # fmt: skip
def test_points_outside_the_cube_are_refused(u: list[float], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        CONDITIONAL.from_unit(u)
    assert CONDITIONAL.from_unit([1 + 1e-12] * 5) == {"opt": "adam"}


def test_an_rng_that_is_none_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"rng=3, expected a random\.Random"):
        CONDITIONAL.sample(3)


# Neighbours


def neighbours(part: Distribution, value: Any, factors: tuple[float, ...] = (0.8, 1.2)) -> set[Any]:
    space, rng = SearchSpace({"x": part}), random.Random(0)
    return {space.perturb({"x": value}, rng, factors)["x"] for _ in range(60)}


def test_perturbed_values() -> None:
    assert neighbours(Uniform(0, 1), 0.5) == {0.4, 0.6}
    assert neighbours(Uniform(0, 1), 0.9) == {0.9 * 0.8, 1.0}
    assert neighbours(LogUniform(1e-4, 1), 0.1) == {0.1 * 0.8, 0.1 * 1.2}
    assert neighbours(LogUniform(1e-4, 1), 1e-4) == {1e-4, 1e-4 * 1.2}
    for part, expected in ((Uniform(0, 1), [0, 0.1]), (Uniform(-1, 1), [-0.2, 0.2]), (Normal(0, 1), [-0.4, 0.4])):
        assert sorted(neighbours(part, 0.0)) == pytest.approx(expected)
    assert neighbours(LogNormal(0, 1), 2.0) == {1.6, 2.4}
    assert neighbours(Integer(0, 100), 50) == {40, 60}
    assert neighbours(Integer(0, 100), 1) == {0, 2}
    assert neighbours(Integer(-9, -1), -1) == {-2}
    assert neighbours(Integer(0, 100, step=10), 50) == {40, 60}
    assert neighbours(LogInteger(1, 512), 64) == {51, 77}
    assert neighbours(Ordinal([8, 16, 32]), 16) == {8, 32}
    assert neighbours(Ordinal([8, 16, 32]), 32) == {16}
    assert neighbours(Ordinal([8]), 8) == {8}
    assert neighbours(Choice(["a", "b", "c"]), "a") == {"a", "b", "c"}
    assert neighbours(Constant(3), 3) == {3}
    assert neighbours(Uniform(0, 1), 0.5, (1.5,)) == {0.75}
    assert neighbours(Integer(0, 9), 5, (1.0,)) == {5}
    assert neighbours(Ordinal([1, 2]), 2, (1.0,)) == {2}


@given(ordered(st.integers(-30, 30)), st.integers(1, 4), st.data())
def test_whole_numbers_always_move(bounds: tuple[int, int], step: int, data: st.DataObject) -> None:
    low, high = bounds
    assume(step <= high - low)
    value = data.draw(st.sampled_from(range(low, high + 1, step)))
    moved = neighbours(Integer(low, high, step=step), value)
    assert value not in moved
    assert moved <= set(range(low, high + 1, step))


def test_perturb_respects_conditions_and_resamples() -> None:
    rng = random.Random(4)
    params: dict[str, Any] = {"opt": "sgd", "momentum": 0.5, "nesterov": True, "both": 1}
    seen = [CONDITIONAL.perturb(params, rng) for _ in range(200)]
    assert {frozenset(p) for p in seen} == {frozenset(CONDITIONAL.sample(rng)) for _ in range(200)}
    assert {p["both"] for p in seen if "both" in p} == {2}
    assert len({p["damping"] for p in seen if "damping" in p}) > 20
    drawn = {CONDITIONAL.perturb(params, rng, resample=1.0).get("momentum") for _ in range(50)}
    assert len(drawn) > 10
    assert params == {"opt": "sgd", "momentum": 0.5, "nesterov": True, "both": 1}
    for options in ({"factors": ()}, {"factors": (0, 2)}, {"factors": (math.inf,)}, {"resample": 2}):
        with pytest.raises(SpaceError, match=next(iter(options))):
            CONDITIONAL.perturb(params, rng, **options)
    with pytest.raises(SpaceError, match="'opt'"):
        CONDITIONAL.perturb({}, rng)


# Names


@given(st.dictionaries(st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join), st.integers()))
def test_nest_and_flatten_are_inverse(flat: dict[str, int]) -> None:
    if any(a != b and b.startswith(f"{a}.") for a in flat for b in flat):
        with pytest.raises(SpaceError, match="rename one"):
            nest(flat)
    else:
        assert flatten(nest(flat)) == flat


def test_flatten_keeps_values_that_are_mappings() -> None:
    space = SearchSpace({"model": {"kind": Choice([{"a": {"b": 1}}, {}])}})
    for params in space.grid():
        assert space.validate(nest(params)) == params
        assert space.validate(params) == params
    assert flatten({"a": {"b": {}}}) == {"a.b": {}}
    with pytest.raises(SpaceError, match="twice"):
        flatten({"a": {"b": 1}, "a.b": 1})
    with pytest.raises(SpaceError, match="not text"):
        flatten({"a": {1: 1}})


def test_a_space_reads_as_a_mapping() -> None:
    assert list(CONDITIONAL) == list(CONDITIONAL.names)
    assert len(CONDITIONAL) == 5
    assert "opt" in CONDITIONAL
    assert "zzz" not in CONDITIONAL
    assert CONDITIONAL["opt"] == Choice(["sgd", "adam"])
    assert SearchSpace({}).sample(random.Random(0)) == {}
    assert list(SearchSpace({}).grid()) == [{}]
    assert SearchSpace({"a": Choice(["only"]), "b": 3}).dimensions == ()


def test_sampling_is_reproducible_and_leaves_the_global_generator_alone() -> None:
    space = CONDITIONAL
    state = random.getstate()
    first = [space.sample(random.Random(11)), space.perturb(space.sample(random.Random(11)), random.Random(1))]
    again = [space.sample(random.Random(11)), space.perturb(space.sample(random.Random(11)), random.Random(1))]
    assert first == again
    assert random.getstate() == state


def test_a_sample_is_cheap() -> None:
    """The bound is 10 µs for six parameters; here with room for a busy machine, best of several."""
    import timeit

    space = SearchSpace(
        {"lr": LogUniform(1e-5, 1e-1), "width": LogInteger(16, 512), "depth": Integer(1, 6), "drop": Uniform(0, 0.5),
         "batch": Choice([32, 64, 128]), "opt": Ordinal(["sgd", "adam"])}
    )  # fmt: skip
    rng = random.Random(0)
    assert min(timeit.repeat(lambda: space.sample(rng), number=500, repeat=10)) / 500 < 10e-6
