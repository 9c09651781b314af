import pytest

from jasper_ray.config.schema import ClusterConfig
from tuning.capacity import trials_at_once

NODES = [{"CPU": 4.0}, {"CPU": 2.0}, {"CPU": 3.0}]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_workers": 2}, 4),
        ({"num_workers": 2, "placement": "STRICT_PACK"}, 4),
        ({"num_workers": 3, "placement": "STRICT_PACK"}, 2),
        ({"num_workers": 3, "placement": "STRICT_SPREAD"}, 2),
        ({"num_workers": 2, "placement": "STRICT_SPREAD"}, 4),
        ({"num_workers": 4, "placement": "STRICT_SPREAD"}, 0),
        ({"num_workers": 10}, 0),
        ({"num_workers": 1, "use_gpu": True}, 0),
    ],
)
def test_as_many_trials_run_at_once_as_find_room_for_all_of_their_workers(
    config: dict[str, object], expected: int
) -> None:
    assert trials_at_once(NODES, ClusterConfig.model_validate(config)) == expected
