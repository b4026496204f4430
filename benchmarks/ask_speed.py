"""How long a strategy takes to propose a point when many trials are recorded.

Run: ``python benchmarks/ask_speed.py [TRIALS [STRATEGY...]]``; 20 decisions of 4 and 2 choices, random outcomes. Prints a row per strategy:
median and longest of 40 proposals, and what telling all outcomes took.
"""

import sys
import time

import numpy as np

from autoslim import plugins
from autoslim.candidate import Done
from autoslim.metrics import Measurement, Value
from autoslim.recipe import Recipe
from autoslim.space import Domain, SearchSpace

OBJECTIVES = (("metric", "max"), ("latency_ms", "min"), ("size_bytes", "min"))


def domain(kind: str, index: int, choices: tuple) -> Domain:
    return Domain(f"{kind}:{index}", kind, choices, tuple(() if i == 0 else ((str(index), c),) for i, c in enumerate(choices)), True)


def outcome(generator: np.random.Generator) -> Done:
    draw = generator.random(3)
    values = {"metric": Value(draw[0]), "latency_ms": Value(0.1 + draw[1]), "size_bytes": Value(1000 + 1e5 * draw[2])}
    return Done(Measurement(values, facts={"gap": 1 - draw[0]}), {}, "m", "s", Recipe())


def main(trials: int = 10_000, names: tuple[str, ...] = ("frontier", "nsga2", "random")) -> int:
    """Print a row per strategy: milliseconds of an ask, and seconds of telling what was recorded."""
    space = SearchSpace(
        (*(domain("channels", i, (1.0, 0.75, 0.5, 0.25)) for i in range(10)), *(domain("bits", i, (32, 8)) for i in range(10))), {}
    )
    print(f"{'strategy':<12}{'trials':>8}{'median ms':>12}{'longest ms':>12}{'tell all s':>12}")
    for name in names:
        strategy = plugins.load("strategies", name, space=space, objectives=OBJECTIVES, constraints=(), seed=0)
        generator = np.random.default_rng(0)
        begun = time.perf_counter()
        for number in range(trials):
            point = {d.name: d.choices[generator.integers(len(d.choices))] for d in space.domains}
            strategy.tell(number, point, {}, outcome(generator))
        told, asked = time.perf_counter() - begun, []
        for number in range(trials, trials + 40):
            start = time.perf_counter()
            point, memo = strategy.ask(number)
            asked.append(1000 * (time.perf_counter() - start))
            strategy.tell(number, point, memo, outcome(generator))
        print(f"{name:<12}{trials:>8}{np.median(asked):>12.1f}{max(asked):>12.1f}{told:>12.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*(int(x) for x in sys.argv[1:2]), *((tuple(sys.argv[2:]),) if sys.argv[2:] else ())))
