"""growth.py: the same as computing everything anew after each result."""

import numpy as np
import pytest

from autoslim import pareto
from autoslim.growth import Growth


@pytest.mark.parametrize("seed", range(4))
def test_volumes_are_those_of_all_points_so_far(seed):
    points = np.random.default_rng(seed).random((60, 3)) * 1.2
    points[10] = points[3]  # a repeat
    growth, corner = Growth([1.0, 1.0, 1.0]), np.ones(3)
    for count, point in enumerate(points, 1):
        assert growth.add(point) == pytest.approx(pareto.hypervolume(points[:count], corner))
    assert len(growth._front) <= len(pareto.front(points)), "what is dominated is forgotten"


def test_a_result_without_a_place_changes_nothing_but_counts():
    growth = Growth([1.0, 1.0])
    assert growth.add(None) == 0.0
    assert growth.add([0.5, 0.5]) == 0.25
    assert growth.add(None) == 0.25
    assert growth.volumes == [0.0, 0.25, 0.25]
