"""Which decisions matter: what the strongest choice of each loses when it is made alone, and what explains good trials."""

import warnings
from typing import Any

from autoslim.candidate import Done
from autoslim.metrics import direction_of, loss_sign
from autoslim.reporting.context import Material
from autoslim.reporting.singles import Singles, technique_of

#: complete trials below which an importance would be noise
FEWEST = 20


def sensitivities(singles: Singles | None) -> list[dict[str, Any]]:
    """Per domain its strongest choice made alone: {"domain", "technique", "choice", "loss" in units of the gap, "ms", "bytes": share of the
    untouched model that it saves (forecast)}; the most harmful first."""
    if singles is None:
        return []
    whole = {cost: singles.total(cost, {}) for cost in ("ms", "bytes")}
    rows = []
    for name, losses in singles.tables.loss.items():
        choice = singles.choices[name][-1]
        saved = {cost: 1 - singles.total(cost, {name: choice}) / whole[cost] if whole[cost] else 0.0 for cost in whole}
        rows.append({"domain": name, "technique": technique_of(name), "choice": choice, "loss": float(losses[-1]), **saved})
    return sorted(rows, key=lambda row: (-row["loss"], row["domain"]))


def explained(material: Material) -> dict[str, dict[str, float]]:
    """{objective: {domain: share}}: which decisions tell the best tenth of the trials from the rest (PED-ANOVA, Watanabe et al. 2023,
    https://arxiv.org/abs/2304.10255, as Optuna has it). Empty with fewer than FEWEST complete trials, or where a decision never changed."""
    done = sum(isinstance(entry.outcome, Done) for entry in material.entries)
    if done < FEWEST:
        return {}
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    found = {}
    for place, objective in enumerate(material.context["objectives"]):
        sign = loss_sign(direction_of(objective, material.context["metric_direction"]))  # the evaluator asks what makes its target small
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                shares = get_param_importances(
                    material.study.optuna,
                    evaluator=PedAnovaImportanceEvaluator(),
                    target=lambda trial, place=place, sign=sign: sign * trial.values[place],
                )
        except (ValueError, RuntimeError):  # nothing to tell apart: all values alike
            continue
        found[objective] = {name: round(float(share), 6) for name, share in shares.items()}
    return found
