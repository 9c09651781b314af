"""Which settings decide how well a trial does."""

import math
import warnings
from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tuning.records import TrialRecord
from tuning.settings import Dimension
from tuning.spaces import Space

MIN_TRIALS = 4


def importances(records: Sequence[TrialRecord], space: Space) -> list[tuple[str, float]]:
    """Share of each setting that applies to all trials, the most important first; empty for too few trials.

    Source: Watanabe et al. 2023, "PED-ANOVA", as in Optuna.
    """
    known = [record for record in records if math.isfinite(record.best_wer)]
    keys = [key for key in space.searched if all(key in record.params for record in known)]
    varied = [key for key in keys if len({repr(record.params[key]) for record in known}) > 1]
    if len(known) < MIN_TRIALS or len(varied) < 2:
        return []
    study = optuna.create_study()
    for record in known:
        study.add_trial(
            optuna.trial.create_trial(
                params={key: record.params[key] for key in varied},
                distributions={key: _distribution(space.searched[key]) for key in varied},
                value=record.best_wer,
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the evaluator is experimental
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.5, region_quantile=1.0)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return sorted(((str(key), float(share)) for key, share in found.items()), key=lambda item: -item[1])


def _distribution(rule: Dimension) -> BaseDistribution:
    if rule.loguniform is not None:
        return FloatDistribution(*rule.loguniform, log=True)
    if rule.uniform is not None:
        return FloatDistribution(*rule.uniform)
    if rule.integers is not None:
        return IntDistribution(*rule.integers)
    return CategoricalDistribution(rule.values or ())
