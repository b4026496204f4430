"""The leading metric against latency: verified points with intervals, rivals, and what was tried but not verified."""

from autoslim.charts._pareto import ParetoChart


class Member(ParetoChart):
    """Latency as a ratio to the untouched model."""

    title = "Accuracy against latency"
    axis, low, high, label = "latency_ratio", "latency_ratio_low", "latency_ratio_high", "latency, ratio to the untouched model"
    trial_axis = "latency_ratio"
