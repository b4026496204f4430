"""What several test files share."""

import networks
import pytest

from autoslim import coverage


@pytest.fixture(scope="session", params=sorted(networks.ZOO))
def tiny(request):
    """(name, network, batch of one, its structure) for each tiny network; tests must not change them."""
    model, example = networks.ZOO[request.param]()
    return request.param, model, example, coverage.analyse(model, example)
