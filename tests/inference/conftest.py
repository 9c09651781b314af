import pytest
from relatives import RELATIVES, randomised

from jasper_ray.model.jasper import Jasper


@pytest.fixture(params=sorted(RELATIVES))
def relative(request: pytest.FixtureRequest) -> Jasper:
    """Small models of every kind in turn."""
    return randomised(RELATIVES[request.param])
