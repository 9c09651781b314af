"""The learning rate as a pure function of the step."""

import math

from jasper_ray.config.schema import ScheduleConfig


def learning_rate(update: int, *, peak_lr: float, schedule: ScheduleConfig, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate of one optimizer update.

    NVIDIA's formulas, applied to the update they are computed for (theirs come one update late).

    Args:
        update: Number of the update, from 1.
        peak_lr: Learning rate between warm-up and decay.
        schedule: Policy and its parameters.
        steps_per_epoch: Updates in an epoch.
        epochs: Epochs of the whole run.

    Returns:
        Warm-up, then the peak, then decay by policy; never below `schedule.min_lr`.
    """
    warmup_steps = schedule.warmup_epochs * steps_per_epoch
    hold_steps = schedule.hold_epochs * steps_per_epoch
    if update < warmup_steps and schedule.warmup_shape == "exponential":
        factor = (schedule.min_lr / peak_lr) ** (1 - update / warmup_steps) if schedule.min_lr else 0.0
    elif update < warmup_steps:
        factor = (update + 1) / (warmup_steps + 1)
    elif update < warmup_steps + hold_steps or schedule.policy == "constant":
        factor = 1.0
    elif schedule.policy == "exponential":
        epoch = (update - 1) // steps_per_epoch + 1
        factor = schedule.gamma ** (epoch - schedule.warmup_epochs - schedule.hold_epochs)
    else:
        total_steps = epochs * steps_per_epoch
        decay_steps = total_steps - warmup_steps - hold_steps
        remaining = max(total_steps - update, 0) / decay_steps
        factor = (
            remaining**schedule.power if schedule.policy == "polynomial" else (1 - math.cos(math.pi * remaining)) / 2
        )
    return max(factor * peak_lr, schedule.min_lr)
