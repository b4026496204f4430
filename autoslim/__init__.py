"""AutoSlim: search how to make a trained PyTorch network fit a device, and ship files that were measured.

Reading order: recipe.py (what to do to a model), space.py (the set of recipes), interfaces.py (the doors),
structure.py and groups.py (what a model is made of), engine.py (recipe -> compressed model), recovery.py, evaluator.py
(recipe -> measurement), study.py (the record), search.py (the one loop), report.py (record -> files).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoslim.engine import compress
    from autoslim.recipe import Recipe, Step
    from autoslim.spec import StudySpec, load_study

__version__ = "0.1.0"
__all__ = ["Recipe", "Step", "StudySpec", "compress", "load_study"]

_HOMES = {"compress": "engine", "Recipe": "recipe", "Step": "recipe", "StudySpec": "spec", "load_study": "spec"}


def __getattr__(name: str) -> Any:
    """Public names load when they are used, so that importing the package loads nothing heavy."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"autoslim.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'autoslim' has no attribute {name!r}")
