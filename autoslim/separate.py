"""Weights that a module keeps to itself become layers that every technique knows: PyTorch's attention and transformers' Conv1D as linear layers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.heads import Attending, unfuse

#: what query, key and value are called in nn.MultiheadAttention where their widths differ
APART = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
PARTS = ("q_proj", "k_proj", "v_proj")
#: an attribute of linear layers that were a Conv1D, whose weight lies the other way round
TURNED = "was_turned"


class Attention(Attending, nn.Module):
    """nn.MultiheadAttention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.2) with a linear layer each for query, key, value
    and output; the width of a head is what the layers give, by the number of heads."""

    #: what nn.TransformerEncoderLayer asks before it takes its fused operation, which would read a joint weight
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(self, given: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.batch_first, self.dropout = given.num_heads, given.batch_first, given.dropout
        joint = given.in_proj_weight is not None
        weights = given.in_proj_weight.chunk(3) if joint else [getattr(given, name) for name in APART]
        biases = (None,) * 3 if given.in_proj_bias is None else given.in_proj_bias.chunk(3)
        for name, weight, bias in zip(PARTS, weights, biases, strict=True):
            setattr(self, name, linear(weight, bias))
        self.out_proj = linear(given.out_proj.weight, given.out_proj.bias)

    def project(self, place: int, x: Tensor) -> Tensor:
        return getattr(self, PARTS[place])(x)


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer with these weights (outputs, inputs)."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, dtype=weight.dtype, device="meta")
    made.weight = nn.Parameter(weight.detach().clone().contiguous(), weight.requires_grad)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
    return made


def is_joint(module: nn.Module) -> bool:
    """Whether a module is PyTorch's own attention, without the extra keys that no layer has a place for."""
    return type(module) is nn.MultiheadAttention and module.bias_k is None and not module.add_zero_attn


def is_turned(module: nn.Module) -> bool:
    """Whether a module is transformers' Conv1D: a linear layer whose weight is (inputs, outputs)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and getattr(module, "weight", torch.empty(0)).dim() == 2


def found(model: nn.Module) -> bool:
    """Whether there is anything to separate."""
    return any(is_joint(module) or is_turned(module) for module in model.modules())


def separate(model: nn.Module) -> None:
    """Replace such modules in place; one that stands in several places is replaced by one."""
    made: dict[nn.Module, nn.Module] = {}
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):  # named_children() tells what stands twice once
            if child is None:
                continue
            if child not in made and is_joint(child):
                made[child] = Attention(child).train(child.training)
            elif child not in made and is_turned(child):
                made[child] = linear(child.weight.t(), child.bias).train(child.training)
                setattr(made[child], TURNED, True)
            if child in made:
                setattr(module, name, made[child])
    unfuse(model)


def restated(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Any]:
    """A state dict of the model as it came in the names and forms of ``model``, which was separated."""
    told = dict(state)
    for name, module in model.named_modules():
        start = f"{name}." if name else ""
        if isinstance(module, Attention):
            if f"{start}in_proj_weight" in told:
                told |= {f"{start}{part}.weight": one for part, one in zip(PARTS, told.pop(f"{start}in_proj_weight").chunk(3), strict=True)}
            for part, old in zip(PARTS, APART, strict=True):
                if start + old in told:
                    told[f"{start}{part}.weight"] = told.pop(start + old)
            if f"{start}in_proj_bias" in told:
                told |= {f"{start}{part}.bias": one for part, one in zip(PARTS, told.pop(f"{start}in_proj_bias").chunk(3), strict=True)}
        elif getattr(module, TURNED, False) and f"{start}weight" in told:
            told[f"{start}weight"] = told[f"{start}weight"].t().contiguous()
    return told
