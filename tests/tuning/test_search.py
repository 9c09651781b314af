import math

import pytest

from jasper_ray.config.schema import RunConfig
from jasper_ray.errors import ConfigError
from tuning.records import Evaluation, TrialRecord
from tuning.search import PointSearch, RandomSearch, TpeSearch
from tuning.settings import Dimension
from tuning.spaces import Params, Space

RATE = {"optimizer.lr": Dimension(loguniform=(1e-4, 1.0))}


def make_space(dimensions: dict[str, Dimension]) -> Space:
    return Space(dimensions, RunConfig(), source="s.yaml")


def ended(number: int, params: Params, wer: float, status: str = "finished") -> TrialRecord:
    return TrialRecord(number, params, status=status, evaluations=(Evaluation(1, 10, wer, 1.0, 0.0),))  # type: ignore[arg-type]


def test_random_settings_are_a_function_of_seed_and_number() -> None:
    first, again, other = (RandomSearch(make_space(RATE), seed=seed) for seed in (0, 0, 1))
    assert [first.next_trial(n).params for n in range(5)] == [again.next_trial(n).params for n in (0, 1, 2, 3, 4)]
    assert first.next_trial(0) != other.next_trial(0) and first.num_points is None


def test_every_grid_point_comes_once_per_round_with_the_same_draws_of_the_rest() -> None:
    search = RandomSearch(make_space({**RATE, "accumulation": Dimension(grid=(1, 2, 4))}), seed=0)
    settings = [search.next_trial(n).params for n in range(6)]
    assert [s["accumulation"] for s in settings] == [1, 2, 4, 1, 2, 4]
    assert len({s["optimizer.lr"] for s in settings[:3]}) == 1 and len({s["optimizer.lr"] for s in settings}) == 2


def test_a_grid_search_has_each_combination_once_and_refuses_real_ranges() -> None:
    listed = make_space({"optimizer.lr": Dimension(choice=(0.1, 0.2)), "accumulation": Dimension(integers=(1, 3))})
    search = PointSearch(listed.all_points())
    assert search.num_points == 6 and len({tuple(search.next_trial(n).params.values()) for n in range(6)}) == 6
    with pytest.raises(ConfigError, match="search=grid needs values to list"):
        make_space(RATE).all_points()


def best_rate_error(params: Params) -> float:
    return min(1.0, 0.1 * abs(math.log10(float(params["optimizer.lr"] or 1)) + 2))


def test_tpe_comes_closer_to_the_best_rate_than_its_first_draws() -> None:
    search = TpeSearch(make_space(RATE), seed=0)
    errors = []
    for number in range(40):
        params = search.next_trial(number).params
        errors.append(best_rate_error(params))
        search.ended(ended(number, params, errors[-1]))
    assert sum(errors[25:]) / 15 < 0.5 * sum(errors[:10]) / 10


def test_tpe_goes_on_after_a_restart_as_if_there_had_been_none() -> None:
    def run(restart_at: int | None) -> list[Params]:
        search, records = TpeSearch(make_space(RATE), seed=3), []
        for number in range(16):
            if number == restart_at:
                search = TpeSearch(make_space(RATE), seed=3)
                for record in records:
                    search.adopt(record)
                    search.ended(record)
            params = search.next_trial(number).params
            status = "stopped" if number % 3 == 0 else "finished"
            records.append(ended(number, params, best_rate_error(params), status))
            search.ended(records[-1])
        return [record.params for record in records]

    assert run(13) == run(None)


def test_tpe_survives_trials_that_failed_or_diverged_before_an_evaluation() -> None:
    search = TpeSearch(make_space(RATE), seed=0)
    for number, status in enumerate(("failed", "diverged")):
        search.ended(TrialRecord(number, search.next_trial(number).params, status=status))  # type: ignore[arg-type]
    assert search.next_trial(2)


def test_tpe_refuses_a_grid() -> None:
    with pytest.raises(ConfigError, match="write choice in place of grid"):
        TpeSearch(make_space({"accumulation": Dimension(grid=(1, 2))}), seed=0)
