"""Dense stages of a student: what follows the last down-sampling sees all positions at once, as fully connected layers do."""

import torch
from torch import Tensor, nn

from autoslim.engine import Draft
from autoslim.errors import Untreatable
from autoslim.inputs import Inputs, call
from autoslim.techniques._convolutions import like


def densify(draft: Draft) -> bool:
    """Make the last stage of the convolutions dense; whether there was one. It begins with those that give the smallest map from a larger
    one: these read the means of as many regions as their kernel has taps, which is a fully connected layer over a map of that size. Of the
    others the middle tap stays, the only one that meets anything on a map of one position. Raises Untreatable where that is not so."""
    maps = seen(draft.model, draft.example)
    sizes = [after for _, after in maps.values() if max(after) > 1]
    if not sizes:
        return False
    last = min(sizes, key=lambda size: size[0] * size[1])
    stage = {name: before for name, (before, after) in maps.items() if after == last}
    entries = {name: before for name, before in stage.items() if before != last}
    if not entries:
        return False
    for name in stage:
        layer = draft.model.get_submodule(name)
        draft.replace(name, gathering(layer, entries[name]) if name in entries else middle(layer))
    try:
        found = seen(draft.model, draft.example)
    except RuntimeError as error:
        raise Untreatable(f"student: the last stage cannot be dense in this network ({' '.join(str(error).split())[:120]})") from error
    if any(found[name][0] != (1, 1) for name in stage if name not in entries):
        raise Untreatable("student: the last stage cannot be dense, something in it that is no convolution keeps its map")
    return True


def seen(model: nn.Module, example: Inputs) -> dict[str, tuple[tuple[int, int], tuple[int, int]]]:
    """{convolution: ((height, width) that it reads, that it gives)} in the order of execution."""
    found: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {}

    def watch(name: str, module: nn.Module, args: tuple, output: Tensor) -> None:
        found[name] = tuple(args[0].shape[2:]), tuple(output.shape[2:])

    handles = [
        module.register_forward_hook(lambda *told, name=name: watch(name, *told))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            call(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return found


def gathering(layer: nn.Conv2d, size: tuple[int, int]) -> nn.Sequential:
    """Means of regions of a map of ``size``, one for each tap of the kernel, which then is at one place alone; regions may overlap.
    Raises Untreatable for a kernel that is larger than the map."""
    if any(taps > side for taps, side in zip(layer.kernel_size, size, strict=True)):
        raise Untreatable(f"student: the last stage cannot be dense, a kernel of {layer.kernel_size} is larger than its map of {size}")
    steps = [side // taps for taps, side in zip(layer.kernel_size, size, strict=True)]
    regions = [side - (taps - 1) * step for taps, side, step in zip(layer.kernel_size, size, steps, strict=True)]
    return nn.Sequential(nn.AvgPool2d(tuple(regions), tuple(steps)), like(layer, layer.weight, stride=1, padding=0, dilation=1))


def middle(layer: nn.Conv2d) -> nn.Conv2d:
    """The middle tap as a convolution of its own. Raises Untreatable for kernels that have none."""
    if any(taps % 2 == 0 for taps in layer.kernel_size):
        raise Untreatable(f"student: the last stage cannot be dense, a kernel of {layer.kernel_size} has no middle")
    tall, wide = (taps // 2 for taps in layer.kernel_size)
    return like(layer, layer.weight[:, :, tall : tall + 1, wide : wide + 1], stride=1, padding=0, dilation=1)
