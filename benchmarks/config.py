"""Config beside its peers, in one run: python benchmarks/config.py

Merge: 1,000 keys set by each of 10 layers. Ours keeps the full history of every key (value, view,
line); Ato, OmegaConf and pydantic keep none. CPU time, the best of several rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from sweep.config import ADict, Scope

KEYS, VIEWS = 1000, 10
NAMES = [f"key{number}" for number in range(KEYS)]
NESTED = {f"group{group}": {f"key{number}": number * 0.5 for number in range(20)} for group in range(50)}
Row = tuple[str, dict[str, float | None]]


def best(call: Callable[[], Any], rounds: int, repeat: int = 1) -> float:
    """Return the least CPU seconds of one call."""
    found = []
    for _ in range(rounds):
        begin = time.process_time()
        for _ in range(repeat):
            call()
        found.append((time.process_time() - begin) / repeat)
    return min(found)


def have(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def writers() -> list[Callable[[Any], None]]:
    def writer(number: int) -> Callable[[Any], None]:
        def view(cfg: Any) -> None:
            for name in NAMES:
                setattr(cfg, name, number)

        return view

    return [writer(number) for number in range(VIEWS)]


def ours() -> None:
    scope = Scope()
    for number, view in enumerate(writers()):
        scope.observe(f"view{number}", default=True)(view)
    found = scope.resolve([])
    if found.key0 != VIEWS - 1:
        raise SystemExit("wrong result")


def ato() -> None:
    from ato.scope import Scope as AtoScope  # type: ignore[import-untyped]  # ships no types

    AtoScope.registry.clear()
    AtoScope.parsed, AtoScope.stored_arguments, sys.argv = False, None, ["bench"]
    scope = AtoScope()
    for number, view in enumerate(writers()):
        scope.observe(f"view{number}", default=True)(view)
    scope(lambda config: None)()


def omegaconf() -> None:
    from omegaconf import OmegaConf

    OmegaConf.merge(*({name: number for name in NAMES} for number in range(VIEWS)))


def merges(rounds: int) -> Row:
    from pydantic import create_model

    fields: dict[str, Any] = {name: (int, 0) for name in NAMES}
    model = create_model("Model", **fields)

    def bare_pydantic() -> None:
        merged: dict[str, int] = {}
        for number in range(VIEWS):
            merged |= {name: number for name in NAMES}
        model.model_validate(merged)

    return f"merge {KEYS} keys x {VIEWS} views (ms)", {
        "sweep": best(ours, rounds) * 1e3,
        "ato": best(ato, rounds) * 1e3 if have("ato") else None,
        "omegaconf": best(omegaconf, max(2, rounds // 4)) * 1e3 if have("omegaconf") else None,
        "pydantic": best(bare_pydantic, rounds) * 1e3,
    }


def reads(rounds: int) -> Row:
    from pydantic import BaseModel

    class Inner(BaseModel):
        key1: float = 0.5

    class Outer(BaseModel):
        group1: Inner = Inner()

    def reader(config: Any) -> float:
        return best(lambda: config.group1.key1, rounds, 20_000) * 1e9

    found: dict[str, float | None] = {"sweep": reader(ADict(NESTED).freeze()), "pydantic": reader(Outer())}
    if have("ato"):
        from ato.adict import ADict as AtoDict  # type: ignore[import-untyped]  # ships no types

        found["ato"] = reader(AtoDict(**NESTED))
    if have("omegaconf"):
        from omegaconf import OmegaConf

        found["omegaconf"] = reader(OmegaConf.create(NESTED))
    return "read cfg.group.key (ns)", found


def hashes(rounds: int) -> Row:
    config = ADict(NESTED)
    found: dict[str, float | None] = {"sweep": best(config.get_structural_hash, rounds, 5) * 1e3}
    if have("ato"):
        from ato.adict import ADict as AtoDict

        found["ato"] = best(AtoDict(**NESTED).get_structural_hash, rounds, 5) * 1e3
    return f"structural hash of {50 * 20} leaves (ms)", found


def imports(rounds: int) -> Row:
    def seconds(statement: str) -> float:
        code = f"import time; t = time.process_time(); {statement}; print(time.process_time() - t)"
        runs = [subprocess.check_output([sys.executable, "-c", code], text=True) for _ in range(max(3, rounds // 2))]
        return min(map(float, runs)) * 1e3

    packages = {"ato": "from ato.scope import Scope", "omegaconf": "from omegaconf import OmegaConf"}
    found: dict[str, float | None] = {"sweep": seconds("from sweep.config import Scope")}
    found |= {name: seconds(statement) if have(name) else None for name, statement in packages.items()}
    found["pydantic"] = seconds("from pydantic import BaseModel")
    return "import (ms)", found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    peers = ["sweep", "ato", "omegaconf", "pydantic"]
    print(f"{'':40}" + "".join(f"{peer:>22}" for peer in peers))
    for name, found in (merges(rounds), reads(rounds), hashes(rounds), imports(rounds)):
        cells = []
        for peer in peers:
            value, own = found.get(peer), found["sweep"]
            text = "-" if value is None or own is None else f"{value:.4g} ({value / own:.2g}x)"
            cells.append(f"{text:>22}")
        print(f"{name:40}" + "".join(cells))


if __name__ == "__main__":
    main()
