from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jasper_ray.config.files import load_run_config
from jasper_ray.config.schema import RunConfig
from jasper_ray.errors import ConfigError
from tuning.settings import Dimension, load_sweep
from tuning.spaces import RandomDraws, Space

REPOSITORY = Path(__file__).parents[2]
SHIPPED = sorted((REPOSITORY / "tuning").glob("*.yaml"))
BASE = RunConfig.model_validate(
    {
        "batching": {"utterances_per_microbatch": 8, "microbatches_per_step": 4},
        "cluster": {"num_workers": 2},
    }
)


def space(base: RunConfig = BASE, **rules: dict[str, Any]) -> Space:
    dimensions = {key.replace("__", "."): Dimension.model_validate(rule) for key, rule in rules.items()}
    return Space(dimensions, base, source="s.yaml")


def draws(seed: int = 0) -> RandomDraws:
    return RandomDraws(np.random.default_rng(seed))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize("run", ["digits_cpu", "demo_cpu", "jasper10x5dr_librispeech_8xa100"])
def test_every_shipped_space_fits_every_kind_of_run(path: Path, run: str) -> None:
    config = load_run_config(REPOSITORY / "jobs" / "configs" / f"{run}.yaml", environ={})
    shipped = Space(load_sweep(path, environ={}).space, config, source=path.name)
    assert shipped.config(shipped.draw(draws())) != config
    assert load_sweep(path, environ={}).name == path.stem


def test_a_global_batch_stays_constant_over_accumulations() -> None:
    rules = {
        "accumulation": {"grid": [1, 2, 4]},
        "batching__utterances_per_microbatch": {"inverse_to": "accumulation"},
    }
    constant = space(**rules)
    found = [constant.config(point).batching for point in constant.grid_points()]
    assert [(b.utterances_per_microbatch, b.microbatches_per_step) for b in found] == [(16, 2), (8, 4), (4, 8)]


def test_a_batch_that_cannot_be_shared_out_evenly_is_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match=r"whole number, but batching.microbatches_per_step=6 makes it 5.33"):
        space(accumulation={"grid": [3]}, batching__utterances_per_microbatch={"inverse_to": "accumulation"})


def test_draws_stay_within_their_bounds_and_repeat_for_a_seed() -> None:
    rules = {
        "optimizer__lr": {"loguniform": [1e-4, 1e-1]},
        "training__ema_decay": {"uniform": [0.9, 0.99]},
        "augment__freq_masks": {"integers": [0, 2]},
        "optimizer__name": {"choice": ["novograd", "adamw"]},
    }
    one = space(**rules)
    drawn = [one.draw(draws(seed)) for seed in range(200)]
    rates = np.array([params["optimizer.lr"] for params in drawn])
    assert rates.min() >= 1e-4 and rates.max() <= 1e-1 and abs(np.mean(rates < 10**-2.5) - 0.5) < 0.15
    assert {params["augment.freq_masks"] for params in drawn} == {0, 1, 2}
    assert {params["optimizer.name"] for params in drawn} == {"novograd", "adamw"}
    assert space(**rules).draw(draws(7)) == drawn[7]


def test_a_conditional_key_varies_only_under_its_condition() -> None:
    rules = {
        "optimizer__name": {"choice": ["novograd", "adamw"]},
        "optimizer__beta2": {"choice": [0.98], "when": {"optimizer.name": "adamw"}},
    }
    conditional = space(**rules)
    for seed in range(20):
        params = conditional.draw(draws(seed))
        assert ("optimizer.beta2" in params) == (params["optimizer.name"] == "adamw")
        assert conditional.config(params).optimizer.beta2 == (0.98 if params["optimizer.name"] == "adamw" else 0)
    assert len(conditional.all_points()) == 2


def test_numbers_that_yaml_reads_as_text_become_numbers() -> None:
    chosen = space(optimizer__lr={"choice": ["1e-3", 0.01]})
    assert chosen.searched["optimizer.lr"].choice == (0.001, 0.01)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"optimiser.lr": {"choice": [1]}}, r"unknown key 'optimiser.lr'. Did you mean 'optimizer.lr'"),
        ({"optimizer": {"choice": [1]}}, "unknown key 'optimizer'"),
        ({"optimizer.lr": {"choice": [0.1, -1]}}, r"space.optimizer.lr: optimizer.lr: got -1; input should be greater"),
        ({"optimizer.lr": {"uniform": [0, 1]}}, r"optimizer.lr: got 0.0; input should be greater than 0"),
        ({"optimizer.name": {"choice": ["sgd"]}}, r"got 'sgd'; input should be 'novograd' or 'adamw'"),
        ({"accumulation": {"choice": [0]}}, r"space.accumulation: got 0; must be a whole number of 1 or more"),
        ({"cluster.num_workers": {"choice": [1]}}, r"cluster.num_workers is the same for all trials"),
        ({"output": {"choice": ["a"]}}, r"output is the same for all trials"),
        ({"model.blocks.7.dropout": {"choice": [0.1]}}, r"'7'"),
        ({"optimizer.lr": {"choice": [1], "when": {"optimizer.nam": "adamw"}}}, r"unknown key 'optimizer.nam'"),
        (
            {"optimizer.beta2": {"choice": [0.9], "when": {"optimizer.lr": 1}}, "optimizer.lr": {"choice": [1]}},
            r"put optimizer.lr before it",
        ),
        ({"optimizer.lr": {"inverse_to": "seed"}}, "none is searched"),
        (
            {"schedule.policy": {"choice": ["cosine"]}, "training.epochs": {"choice": [100]}},
            r"with schedule.policy=cosine, training.epochs=100: .*must be below",
        ),
    ],
)
def test_what_the_schema_does_not_allow_is_refused_with_its_reason(rules: dict[str, Any], message: str) -> None:
    dimensions = {key: Dimension.model_validate(rule) for key, rule in rules.items()}
    with pytest.raises(ConfigError, match=message):
        Space(dimensions, BASE, source="s.yaml")


def test_values_that_only_fit_together_are_not_refused_one_by_one() -> None:
    # Alone, 100 epochs of polynomial decay after 140 of hold are refused.
    together = {"training__epochs": {"choice": [100]}, "schedule__hold_epochs": {"choice": [40]}}
    base = RunConfig.model_validate({"schedule": {"policy": "polynomial"}})
    assert space(base, **together).draw(draws()) == {"training.epochs": 100, "schedule.hold_epochs": 40}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space: {optimizer.lr: {choice: []}}\nbudget: {trials: 1}", r"space.optimizer.lr: choice=\[\]: give one"),
        ("space: {optimizer.lr: {choice: [1, 1]}}\nbudget: {trials: 1}", r"each once"),
        ("space: {optimizer.lr: {chioce: [1]}}\nbudget: {trials: 1}", r"unknown key 'space.optimizer.lr.chioce'"),
        ("space: {optimizer.lr: {}}\nbudget: {trials: 1}", r"needs exactly one of loguniform, .*got none"),
        ("space: {optimizer.lr: {loguniform: [0, 1]}}\nbudget: {trials: 1}", r"needs bounds above 0"),
        ("space: {optimizer.lr: {uniform: [2, 1]}}\nbudget: {trials: 1}", r"first bound must be below"),
        ("space: {optimizer.lr: {choice: [1]}}\nbudget: {trials: 0}", r"budget.trials: must be above 0, got 0"),
        ("space: {optimizer.lr: {choice: [1]}}\nbudget: {hours: 0}", r"budget.hours: must be above 0, got 0"),
        ("space: {optimizer.lr: {choice: [1]}}", r"search=random never ends by itself"),
        ("space: {}\nbudget: {trials: 1}", r"space: got {}"),
        ("space: {optimizer.lr: {choice: [1]}}\nsearch: pbt", r"search=pbt needs budget.trials"),
        ("space: {optimizer.lr: {choice: [1]}}\nserch: tpe", r"unknown key 'serch'.*Did you mean 'search'"),
    ],
)
def test_a_wrong_sweep_file_is_refused_with_key_and_reason(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_sweep(path, environ={})


def test_overrides_reach_the_sweep(tmp_path: Path) -> None:
    sweep = load_sweep(SHIPPED[0], ["budget.trials=3", "search=tpe"], environ={})
    assert (sweep.budget.trials, sweep.search) == (3, "tpe")
