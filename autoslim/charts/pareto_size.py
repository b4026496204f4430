"""The leading metric against size: verified points with intervals, rivals, and what was tried but not verified."""

from autoslim.charts._pareto import ParetoChart


class Member(ParetoChart):
    """Bytes of the shipped file, in kilobytes."""

    title = "Accuracy against size"
    axis, low, high, label = "size_kb", None, None, "size of the shipped file, kB"
    trial_axis = "size_kb"
