import sys
from collections.abc import Iterator

import pytest
from relatives import RELATIVES, randomised

from jasper_ray.model.jasper import Jasper


@pytest.fixture(params=sorted(RELATIVES))
def relative(request: pytest.FixtureRequest) -> Jasper:
    """Small models of every kind in turn."""
    return randomised(RELATIVES[request.param])


@pytest.fixture
def triton_interpreter(triton_interpreter: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same for the kernels of inference."""
    kernels = "jasper_ray.inference.epilogue_kernels"
    monkeypatch.delitem(sys.modules, kernels, raising=False)
    yield
    sys.modules.pop(kernels, None)
