import pytest
from pydantic import ValidationError

from jasper_ray.cluster.room import workers_that_fit
from jasper_ray.config.files import load_run_config
from jasper_ray.config.schema import ClusterConfig, RunConfig


def test_a_number_of_workers_or_a_range_of_them_is_asked_for() -> None:
    assert (ClusterConfig(num_workers=3).min_workers, ClusterConfig(num_workers=3).max_workers) == (3, 3)
    elastic = ClusterConfig.model_validate({"num_workers": [2, 8]})
    assert (elastic.min_workers, elastic.max_workers) == (2, 8)
    again = RunConfig.model_validate(RunConfig(cluster=elastic).model_dump(mode="json"))
    assert again.cluster.num_workers == (2, 8)
    assert workers_that_fit({"CPU": 4.0}, elastic) == 4


def test_a_range_comes_from_the_command_line() -> None:
    assert load_run_config("tests/training/tones.yaml", ["cluster.num_workers=[1, 3]"]).cluster.num_workers == (1, 3)


@pytest.mark.parametrize("value", [0, [0, 2], [3, 2], [1], [1, 2, 3]])
def test_a_range_that_makes_no_sense_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        ClusterConfig.model_validate({"num_workers": value})
