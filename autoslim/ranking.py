"""Which channels or heads of coupled groups stay: a ranking of rankings/, asked group by group or over several groups together.

A plan is {"keep": how many stay (an integer) or which share (a float), "criterion": a file of rankings/, "scope": "group", "isomorphic" or
"global", "round_to"}. Scope isomorphic ranks the channels of groups of the same form together (Fang et al. 2024, Isomorphic Pruning,
https://arxiv.org/abs/2407.04616, section 3.2): which kinds of layers they join, at which side and with which kernels, not how wide they
are. Scope global ranks all together.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoslim import plugins
from autoslim.engine import Draft
from autoslim.errors import UserError
from autoslim.importance import importance
from autoslim.structure import Group

DEFAULTS = {"criterion": "energy", "scope": "group"}
SCOPES = ("group", "isomorphic", "global")
Chosen = list[tuple[Group, Tensor]]


def allowed(size: int, noun: str) -> str:
    """What a value of channels or heads may be, for messages."""
    return (
        f"a share in (0.0, 1.0] or a whole number of {noun} up to {size}, or a mapping of keep (the same), criterion "
        f"({', '.join(plugins.names('rankings'))}) and scope ({', '.join(SCOPES)}; a share)"
    )


def refuse(technique: str, told: Mapping[str, Any]) -> None:
    """Raise UserError for options of a technique that are none."""
    for key, values in (("criterion", plugins.names("rankings")), ("scope", SCOPES)):
        if told[key] not in values:
            raise UserError(f"{technique}: {key} is {told[key]!r}, allowed: {', '.join(values)}")


def effective(unit_size: int, value: Any, told: Mapping[str, Any], step: int) -> Any:
    """The short form of a value for a group of ``unit_size`` channels, None where all of them stay. Raises ValueError for what is none.

    ``told``: criterion and scope where the value names none. A share becomes a number of channels, rounded up to a multiple of ``step``, unless
    the scope is wider than the group.
    """
    full = {**told, **(value if isinstance(value, Mapping) else {"keep": value})}
    keep = full.get("keep")
    count = isinstance(keep, int) and not isinstance(keep, bool) and keep >= 1
    share = isinstance(keep, float) and 0 < keep <= 1
    known = set(full) <= {"keep", "criterion", "scope", "round_to"} and full["criterion"] in plugins.names("rankings")
    if not known or full["scope"] not in SCOPES or not (count or share) or (count and full["scope"] != "group"):
        raise ValueError(value)
    if full["scope"] != "group":
        own = full.get("round_to", step)
        if not isinstance(own, int) or isinstance(own, bool) or own < 1:
            raise ValueError(value)
        return None if keep == 1 else dict(sorted({**full, "round_to": own}.items()))
    kept = keep if count else -(-round(unit_size * keep, 6) // step) * step
    kept = int(max(1, min(unit_size, kept)))
    if kept == unit_size:
        return None
    return kept if full["criterion"] == DEFAULTS["criterion"] else {"criterion": full["criterion"], "keep": kept}


def choose(draft: Draft, choices: Mapping[str, Any], technique: str) -> Chosen:
    """(group, sorted indices of the channels that stay) of each choice; the weights of readers are settled by the rankings that do so."""
    plans = {name: {**DEFAULTS, **(value if isinstance(value, Mapping) else {"keep": value})} for name, value in choices.items()}
    found: dict[str, Tensor] = {}
    for criterion in sorted({plan["criterion"] for plan in plans.values()}):
        own = {name: draft.structure.groups[name] for name, plan in plans.items() if plan["criterion"] == criterion}
        member = plugins.load("rankings", criterion)
        scores, blind = scored(draft, member, criterion, own, technique)
        counts = {name: plan["keep"] for name, plan in plans.items() if name in own and plan["scope"] == "group"}
        for pool in pools(draft.model, {name: plans[name] for name in own if name not in counts}, own, blind):
            counts |= shared({name: scores[name] for name in pool}, plans[pool[0]]["keep"], plans[pool[0]]["round_to"], own)
        kept = {name: torch.topk(scores[name], min(count, own[name].size)).indices.sort().values for name, count in counts.items()}
        member.settle(draft, [(own[name], kept[name]) for name in own])
        found |= kept
    return [(draft.structure.groups[name], found[name]) for name in choices]


def scored(draft: Draft, member: Any, criterion: str, groups: Mapping[str, Group], technique: str) -> tuple[dict[str, Tensor], set[str]]:
    """({group: (size,) scores}, the groups of which the criterion says nothing): those are scored by energy, with a note."""
    told = member.scores(draft, groups)
    blind = [name for name in groups if told.get(name) is None or not bool(torch.isfinite(told[name]).all())]
    if blind:
        some = ", ".join(blind[:3]) + (f" and {len(blind) - 3} more" if len(blind) > 3 else "")
        draft.notes.append(f"{technique}: {some} by energy, {criterion} says nothing of them")
    scores = {name: importance(draft.model, draft.moments, group) if name in blind else told[name] for name, group in groups.items()}
    return scores, set(blind)


def pools(
    model: nn.Module, plans: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Group], blind: Collection[str] = ()
) -> list[list[str]]:
    """Names of the groups that are ranked together: never those in ``blind`` with others, since energies have another unit."""
    found: dict[Any, list[str]] = {}
    for name, plan in plans.items():
        form = isomorphism(model, groups[name]) if plan["scope"] == "isomorphic" else ()
        found.setdefault((plan["keep"], plan["round_to"], plan["scope"], form, name in blind), []).append(name)
    return list(found.values())


def isomorphism(model: nn.Module, group: Group) -> tuple:
    """What is alike in isomorphic groups: the layers by kind, kernel and side, in no order, whatever their widths and how many channels
    each stands for."""
    told = []
    for member in group.members:
        module = model.get_submodule(member.module)
        depthwise = getattr(module, "groups", 1) > 1
        told.append((type(module).__name__, tuple(getattr(module, "kernel_size", ()) or ()), depthwise, member.axis, member.reads))
    return tuple(sorted(told, key=repr))


def shared(scores: Mapping[str, Tensor], share: float, step: int, groups: Mapping[str, Group]) -> dict[str, int]:
    """{group: how many stay} when the best ``share`` of all channels together stay; rounded up to a multiple of ``step`` in every group,
    at least one."""
    ranked = torch.cat(list(scores.values()))
    best = torch.zeros(len(ranked), dtype=torch.bool)
    best[torch.topk(ranked, max(1, math.ceil(round(len(ranked) * share, 6)))).indices] = True
    counts = [int(part.sum()) for part in best.split([len(score) for score in scores.values()])]
    found = {}
    for (name, score), count in zip(scores.items(), counts, strict=True):
        multiple = step // math.gcd(step, groups[name].width)
        found[name] = min(len(score), max(1, -(-max(count, 1) // multiple) * multiple))
    return found
