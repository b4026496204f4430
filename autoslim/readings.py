"""What the layers of a model read, one layer after the other in the order of execution, so that each sees what was done before it."""

from collections.abc import Callable, Collection, Sequence

from torch import Tensor, nn

from autoslim.hooks import watched
from autoslim.inputs import Inputs
from autoslim.layers import CONVOLUTIONS
from autoslim.resolving import join, patches

Act = Callable[[str, nn.Module, Tensor], None]


def readable(module: nn.Module) -> bool:
    """Linear layers and one- and two-dimensional convolutions, grouped ones too, that pad with zeros or not at all."""
    if isinstance(module, nn.Linear):
        return True
    return isinstance(module, nn.Conv1d | nn.Conv2d) and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def visit(model: nn.Module, names: Collection[str], batches: Sequence[Inputs], act: Act) -> set[str]:
    """Run ``batches`` once and call ``act(name, module, inputs)`` just before each readable layer of ``names`` runs for the first time.

    ``inputs`` are (rows, groups, columns): what one output of each group reads at some positions of every sample, in the order of the
    layer's flattened weight. ``act`` may change the layer: the layers after it read what it gives then. Returns the names seen.
    """
    seen: set[str] = set()

    def watch(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple) -> None:
            if name in seen or not args:
                return
            seen.add(name)
            rows = patches(name, module, args[0])
            act(name, module, rows.reshape(len(rows), getattr(module, "groups", 1), -1))

        return hook

    modules = {name: module for name, module in model.named_modules() if name in names and readable(module)}
    watched(model, [together(batches)], [module.register_forward_pre_hook(watch(name)) for name, module in modules.items()])
    return seen


def together(batches: Sequence[Inputs]) -> Inputs:
    """All batches as one where their shapes allow it, else the first."""
    try:
        return join(batches)
    except RuntimeError:  # sequences of uneven length
        return batches[0]


def as_matrices(module: nn.Module) -> Tensor:
    """The weight as (groups, outputs per group, columns): the axes of :func:`visit`'s inputs. A copy."""
    groups = module.groups if isinstance(module, CONVOLUTIONS) else 1
    weight = module.weight.detach()
    return weight.reshape(groups, weight.shape[0] // groups, -1).clone()
