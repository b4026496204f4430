"""Which decisions matter: what the strongest choice of each loses when it is made alone, and what explains good trials."""

import json
import math
from typing import Any

import numpy as np

from autoslim.candidate import Done
from autoslim.metrics import direction_of, loss_sign
from autoslim.reporting.context import Material
from autoslim.reporting.singles import Singles, positions, technique_of

#: finished trials below which an importance would be noise; share of them that counts as good
FEWEST, GOOD = 20, 0.1


def sensitivities(singles: Singles | None) -> list[dict[str, Any]]:
    """Per domain its strongest choice made alone: {"domain", "technique", "choice", "loss" in units of the gap and its standard "error" (None where it is unknown), "ms", "bytes": share of the
    untouched model that it saves (forecast)}; the most harmful first."""
    if singles is None:
        return []
    whole = {cost: singles.total(cost, {}) for cost in ("ms", "bytes")}
    rows = []
    for name, losses in singles.tables.loss.items():
        choice = singles.choices[name][-1]
        saved = {cost: 1 - singles.total(cost, {name: choice}) / whole[cost] if whole[cost] else 0.0 for cost in whole}
        doubt = singles.tables.spread.get(name)
        known = {"loss": float(losses[-1]), "error": None if doubt is None else float(losses[-1] * doubt[-1])}
        rows.append({"domain": name, "technique": technique_of(name), "choice": choice, **known, **saved})
    return sorted(rows, key=lambda row: (-row["loss"], row["domain"]))


def explained(material: Material) -> dict[str, dict[str, float]]:
    """{objective: {domain: share}}: which decisions tell the best tenth of the finished trials from the rest. Empty with fewer than FEWEST."""
    space = material.fact("space")
    done = [entry for entry in material.entries if isinstance(entry.outcome, Done)]
    if space is None or len(done) < FEWEST:
        return {}
    domains = dict(json.loads(space))
    places = {name: positions(choices) for name, choices in domains.items()}
    table = {name: np.array([place(entry.point[name]) for entry in done]) for name, place in places.items()}
    found = {}
    for objective in material.context["objectives"]:
        sign = loss_sign(direction_of(objective, material.context["metric_direction"]))
        values = np.array([entry.outcome.measurement.get(objective) for entry in done], dtype=float) * sign
        found[objective] = ped_anova({name: (chosen, len(domains[name])) for name, chosen in table.items()}, values)
    return found


def ped_anova(decisions: dict[str, tuple[np.ndarray, int]], values: np.ndarray, good: float = GOOD) -> dict[str, float]:
    """Shares that sum to 1 (or are all 0): Pearson divergence between the choices of the best trials and of all, per decision (Watanabe et
    al. 2023, PED-ANOVA, https://arxiv.org/abs/2304.10255, equation 16). ``decisions``: {name: ((n,) choice indices, number of choices)}; ``values``
    (n,), smaller is better.

    Optuna has this too, over continuous decisions as well; its import alone (with scikit-learn) takes longer than the whole report.
    """
    cut = np.partition(values, place := math.ceil(good * len(values)) - 1)[place]
    best = values <= cut
    found = {}
    for name, (chosen, count) in decisions.items():
        top, every = (shares_of(part, count) for part in (chosen[best], chosen))
        found[name] = float(every @ ((top / every - 1) ** 2))
    total = sum(found.values())
    return {name: round(value / total, 6) if total > 0 else 0.0 for name, value in found.items()}


def shares_of(chosen: np.ndarray, count: int) -> np.ndarray:
    """(count,) share of each choice, with one trial's weight spread over all of them, so that none is zero."""
    return (np.bincount(chosen, minlength=count) + 1.0 / count) / (len(chosen) + 1.0)
