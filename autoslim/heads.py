"""Attention modules that lost whole heads (Michel et al. 2019, https://arxiv.org/abs/1905.10650): what must change besides weights.

PyTorch's own attention and torchvision's window attention take the number of channels per head from their input, so they get a
forward that takes it from the head; other modules keep theirs and get new numbers in the attributes that say how many heads
there are.
"""

from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoslim.errors import Untreatable

#: attributes that hold the number of heads, and those that hold heads times channels per head
COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "nhead", "nheads")
WIDTHS = ("all_head_size", "split_size", "inner_dim", "embed_dim")


def number(module: nn.Module) -> int:
    """How many heads a module has. Raises Untreatable if no attribute says so."""
    for name in COUNTS:
        value = getattr(module, name, None)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    raise Untreatable(f"{type(module).__name__} has no attribute for its number of heads (known: {', '.join(COUNTS)})")


def keep(module: nn.Module, kept: Tensor) -> None:
    """Say that only ``kept`` heads are left; their weights are cut already."""
    before = number(module)
    if isinstance(module, nn.MultiheadAttention):
        if module.bias_k is not None or module.add_zero_attn:
            raise Untreatable("attention with extra keys")
        module.__class__ = SlimAttention
    elif type(module).__name__ == "ShiftedWindowAttention":
        module.head_dim = module.qkv.out_features // 3 // len(kept)
        module.__class__ = SlimWindowAttention
    for name in WIDTHS if not isinstance(module, nn.MultiheadAttention) else ():
        value = getattr(module, name, None)
        if isinstance(value, int) and value % before == 0:
            setattr(module, name, value // before * len(kept))
    for name in COUNTS:
        if getattr(module, name, None) == before:
            setattr(module, name, len(kept))


def fit(model: nn.Module) -> None:
    """Give attention whose inputs became narrower than its heads together a forward that does not confuse the two."""
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            width = module.in_proj_weight.shape[1]
            if width != module.embed_dim:
                if module.bias_k is not None or module.add_zero_attn:
                    raise Untreatable("attention with extra keys")
                module.embed_dim = module.kdim = module.vdim = width
                module.__class__ = SlimAttention
        elif type(module).__name__ == "ShiftedWindowAttention" and module.qkv.in_features * 3 != module.qkv.out_features:
            module.head_dim = module.qkv.out_features // 3 // module.num_heads
            module.__class__ = SlimWindowAttention


def unfuse(model: nn.Module) -> None:
    """Make nn.TransformerEncoderLayer compute step by step where a part of it is no longer the one that its fused operation, and
    the packing of padded batches, expect."""
    plain = {"self_attn": nn.MultiheadAttention, "linear1": nn.Linear, "linear2": nn.Linear}
    changed = set()
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and any(type(getattr(module, name)) is not kind for name, kind in plain.items()):
            module.activation_relu_or_gelu = 0  # "another activation": the fused operation is for these two
            changed.add(module)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and not changed.isdisjoint(module.layers):
            module.use_nested_tensor = False


def stand_in(old: nn.Module, new: nn.Module) -> None:
    """Tell ``new``, in the place of ``old``, what nn.TransformerEncoder asks its first layer for."""
    if isinstance(old, nn.TransformerEncoderLayer) and not isinstance(new, nn.TransformerEncoderLayer):
        new.self_attn = SimpleNamespace(batch_first=old.self_attn.batch_first)


def split(x: Tensor, heads: int) -> Tensor:
    """(batch, positions, heads * width) -> (batch, heads, positions, width)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class Attending:
    """How attention computes, whatever holds its weights: ``project`` gives query, key or value of ``place`` 0, 1 or 2, (batch, positions, heads *
    width of a head), which is what tells that width. Mixed into modules with ``num_heads``, ``batch_first``, ``dropout`` and ``out_proj``."""

    project: Callable[[int, Tensor], Tensor]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As nn.MultiheadAttention.forward; (batch, positions, width) if batch_first, else (positions, batch, width)."""
        given = [x.unsqueeze(0) if query.dim() == 2 else x if self.batch_first else x.transpose(0, 1) for x in (query, key, value)]
        q, k, v = (split(self.project(place, x), self.num_heads) for place, x in enumerate(given))
        mask = additive(attn_mask, q)
        if mask is not None and mask.dim() == 3:
            mask = mask.unflatten(0, (q.shape[0], -1))
        if key_padding_mask is not None:
            padded = additive(key_padding_mask, q).view(q.shape[0], 1, 1, -1)
            mask = padded if mask is None else mask + padded
        weights = None
        if need_weights:
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            weights = F.softmax(scores if mask is None else scores + mask, -1)
            found = F.dropout(weights, self.dropout, self.training) @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            found = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        output = self.out_proj(found.transpose(1, 2).flatten(2))
        if query.dim() == 2:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights


class SlimAttention(Attending, nn.MultiheadAttention):
    """nn.MultiheadAttention whose heads together are narrower than its input."""

    def project(self, place: int, x: Tensor) -> Tensor:
        joint = self.in_proj_weight is not None
        weight = self.in_proj_weight.chunk(3)[place] if joint else (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)[place]
        return F.linear(x, weight, None if self.in_proj_bias is None else self.in_proj_bias.chunk(3)[place])


def additive(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """A mask as numbers to add: minus infinity where a boolean one is true."""
    if mask is None or mask.is_floating_point():
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype).masked_fill(mask, float("-inf"))


class SlimWindowAttention(nn.Module):
    """Attention in shifted windows (Liu et al. 2021, https://arxiv.org/abs/2103.14030, section 3.2) with any width of its heads.

    Takes over ``qkv``, ``proj``, ``relative_position_bias_table``, ``relative_position_index``, ``window_size``, ``shift_size``,
    ``num_heads`` of torchvision's module; ``head_dim`` is the width of one head.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, channels) -> the same."""
        _, height, width, _ = x.shape
        (tall, wide), size = self.window_size, self.window_size[0] * self.window_size[1]
        x = F.pad(x, (0, 0, 0, -width % wide, 0, -height % tall))
        rows, columns = x.shape[1], x.shape[2]
        down = 0 if tall >= rows else self.shift_size[0]
        right = 0 if wide >= columns else self.shift_size[1]
        q, k, v = self.qkv(windows(x.roll((-down, -right), (1, 2)), tall, wide)).chunk(3, -1)
        q, k, v = (split(part, self.num_heads) for part in (q, k, v))  # (batch * windows, heads, size, head_dim)
        bias = self.relative_position_bias_table[self.relative_position_index].view(size, size, -1).permute(2, 0, 1)
        scores = q @ k.transpose(-1, -2) * self.head_dim**-0.5 + bias
        if down or right:
            apart = self.apart(rows, columns, down, right)  # (windows, size, size)
            scores = (scores.unflatten(0, (-1, len(apart))) + apart[:, None]).flatten(0, 1)
        found = self.proj((F.softmax(scores, -1) @ v).transpose(1, 2).flatten(2))
        found = found.unflatten(0, (-1, rows // tall, columns // wide)).unflatten(3, (tall, wide))
        found = found.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return found.roll((down, right), (1, 2))[:, :height, :width].contiguous()

    def apart(self, rows: int, columns: int, down: int, right: int) -> Tensor:
        """-100 between places of one window that were not neighbours before the shift."""
        (tall, wide), region = self.window_size, torch.zeros(1, rows, columns, 1)
        for start, stop in ((rows - tall, rows - down), (rows - down, rows)) if down else ():
            region[:, start:stop] += 3 * (1 + (start == rows - down))
        for start, stop in ((columns - wide, columns - right), (columns - right, columns)) if right else ():
            region[:, :, start:stop] += 1 + (start == columns - right)
        region = windows(region, tall, wide).squeeze(-1)
        return (region[:, :, None] != region[:, None, :]).float() * -100.0


def windows(x: Tensor, tall: int, wide: int) -> Tensor:
    """(batch, height, width, channels) -> (batch * windows, tall * wide, channels)."""
    x = x.unflatten(1, (-1, tall)).unflatten(3, (-1, wide)).transpose(2, 3)
    return x.flatten(3, 4).flatten(0, 2)
