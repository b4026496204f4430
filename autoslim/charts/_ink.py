"""What the figures share: one style, set for the figure and not for the process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "figure.dpi": 150,
    "legend.frameon": False,
    "svg.hashsalt": "autoslim",  # names inside an SVG, else random
    "svg.fonttype": "none",  # text stays text, so that a paper can set its own font
}
OWN, RIVAL, FAINT, BAD = "#1f6f8b", "#d1495b", "#9aa5b1", "#e9c46a"
#: what a file must not say, so that equal numbers give equal bytes
METADATA = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}


#: white space around a figure, inches
MARGIN = 0.1


def draw(path: Path, paint: Callable[[Any], None], size: tuple[float, float] = (7.0, 4.2)) -> None:
    """One figure with one axis, written as PNG or SVG by its ending, or as both where the path has none; without a date in it."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        paint(figure.add_subplot())
        path.parent.mkdir(parents=True, exist_ok=True)
        box = figure.get_tightbbox().padded(MARGIN)  # measured once; savefig would lay the whole figure out again for each file
        for file in [path] if path.suffix else [path.with_suffix(ending) for ending in METADATA]:
            figure.savefig(file, metadata=METADATA.get(file.suffix), bbox_inches=box)
