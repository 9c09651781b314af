from dataclasses import replace

import pytest
from sweeps import make_space, trial

from jasper_ray.errors import ConfigError
from tuning.population import Population
from tuning.settings import PbtConfig

RATE = {"optimizer__lr": {"loguniform": [1e-4, 1.0]}, "augment__freq_masks": {"integers": [0, 4]}}


def population(config: PbtConfig | None = None, size: int = 4, epochs: int = 10) -> Population:
    return Population(make_space(**RATE), config or PbtConfig(interval_epochs=4), size=size, epochs=epochs, seed=1)


def test_generations_follow_each_other_up_to_the_end_of_the_run() -> None:
    people = population()
    assert people.num_points == 12
    assert [people.next_trial(n).until_epoch for n in range(4)] == [4] * 4  # type: ignore[union-attr]
    assert people.next_trial(4) is None
    for number in range(4):
        people.ended(trial(number, {"optimizer.lr": 0.1, "augment.freq_masks": 2}, [0.1 * (number + 1)]))
    second = [people.next_trial(n) for n in range(4, 8)]
    assert [record.until_epoch for record in second if record] == [8] * 4
    assert people.next_trial(8) is None


def test_the_worst_goes_on_from_the_best_with_moved_settings_and_the_others_from_themselves() -> None:
    people = population(PbtConfig(interval_epochs=4, resample_probability=0))
    params = {"optimizer.lr": 0.1, "augment.freq_masks": 2}
    for number in range(4):
        people.ended(trial(number, params, [0.1 * (number + 1)]))
    second = [people.next_trial(n) for n in range(4, 8)]
    assert [record.parent for record in second if record] == [0, 1, 2, 0]
    assert [record.params == params for record in second if record] == [True, True, True, False]
    moved = second[3]
    assert moved is not None and moved.params["optimizer.lr"] in (pytest.approx(0.12), pytest.approx(0.1 / 1.2))
    assert moved.params["augment.freq_masks"] in (1, 3)
    assert second == [people.next_trial(n) for n in range(4, 8)]


def test_members_that_diverged_are_replaced_and_without_any_left_the_population_ends() -> None:
    people, dead = population(), population()
    for number in range(4):
        record = trial(number, {"optimizer.lr": 0.1}, [0.2])
        people.ended(record if number == 2 else replace(record, status="diverged"))
        dead.ended(replace(record, status="diverged"))
    assert [people.next_trial(n).parent for n in range(4, 8)] == [2] * 4  # type: ignore[union-attr]
    assert dead.next_trial(4) is None


def test_what_decides_the_model_or_the_order_of_utterances_may_not_change_in_mid_run() -> None:
    allowed: dict[str, list[object]] = {
        "accumulation": [1, 2],
        "model__masked": [True],
        "augment__speed_max": [1.2],
        "optimizer__name": ["adamw"],
    }
    for key, values in allowed.items():
        with pytest.raises(ConfigError, match="may not change while a run goes on"):
            Population(make_space(**{key: {"choice": values}}), PbtConfig(), size=4, epochs=10, seed=0)
    with pytest.raises(ConfigError, match=r"must be below training.epochs=4"):
        population(epochs=4)
