"""A pipeline of typed stages: contracts are checked before anything runs, hooks do the rest."""

from dataclasses import dataclass

from sweep import Pipeline, Retry
from sweep.errors import ContractError, ContractViolation


@dataclass
class Data:
    """Points on a line."""

    xs: list[float]
    ys: list[float]


def load(n: int) -> Data:
    """Make n points of y = 3x + 1."""
    xs = [i / n for i in range(n)]
    return Data(xs, [3 * x + 1 for x in xs])


def fit(xs: list[float], ys: list[float]) -> dict:
    """Fit a line by least squares."""
    n, sx, sy = len(xs), sum(xs), sum(ys)
    slope = (n * sum(x * y for x, y in zip(xs, ys, strict=True)) - sx * sy) / (n * sum(x * x for x in xs) - sx * sx)
    return {"slope": slope, "intercept": (sy - slope * sx) / n}


async def score(data: Data, slope: float, intercept: float) -> float:
    """Return the mean squared error."""
    errors = [(slope * x + intercept - y) ** 2 for x, y in zip(data.xs, data.ys, strict=True)]
    return sum(errors) / len(errors)


pipeline = (
    Pipeline(n=int)
    .stage("load", load)
    .through(Data, validate=lambda d: len(d.xs) > 1, timeout=10)
    .stage("fit", fit)
    .through(
        slope=float, intercept=float, retry=Retry(3, backoff=0.01), after=lambda d: print(f"slope {d['slope']:.3f}")
    )
    .stage("score", score)
    .through(mse=float)
)

if __name__ == "__main__":
    print(pipeline.plan())
    print(pipeline.run(n=50))
    try:  # a stage that does not fit is found before anything runs
        pipeline.stage("report", lambda slop: print(slop)).check()
    except ContractError as error:
        print(error)
    try:  # a value that breaks its contract is named at run time
        pipeline.run(n=1)
    except ContractViolation as error:
        print(error)
