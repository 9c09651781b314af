"""All that changes while a run trains: model, optimizer, averaged weights, progress; made, saved, restored here."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from jasper_ray.config.schema import RunConfig
from jasper_ray.model.bundle import Bundle, BundleConfig, build_model, load_bundle, load_weights
from jasper_ray.model.convolution import set_convolution_method
from jasper_ray.model.jasper import num_parameters
from jasper_ray.text.alphabet import Alphabet
from jasper_ray.training import checkpoint as checkpoints
from jasper_ray.training.ema import WeightAverage
from jasper_ray.training.exchange import set_tf32
from jasper_ray.training.optimizers import build_optimizer, restore_optimizer
from jasper_ray.training.snapshot import Snapshot, host_copy
from jasper_ray.training.step import TrainStep
from jasper_ray.training.world import World

logger = logging.getLogger(__name__)


class RunState:
    """A fresh run; `restore` makes it an old one.

    Args:
        config: The whole run.
        world: All workers.
        manifest_fingerprint: Of the training utterances, in their order.
        recordings: Fingerprints of the recordings that are mixed into them, by what they are.
    """

    def __init__(
        self, config: RunConfig, *, world: World, manifest_fingerprint: str, recordings: Mapping[str, str] | None = None
    ) -> None:
        self._config = config
        self._world = world
        set_tf32(config.training.precision == "tf32")
        torch.manual_seed(config.seed)  # the same first weights on every worker
        self.model = build_model(config.model, config.features, config.text)
        if config.init_from:
            self._start_from(load_bundle(config.init_from))
        set_convolution_method(self.model, config.training.convolution)
        self.model.encoder.recomputes = config.training.activation_checkpointing
        self.model.to(world.device)
        self.optimizer = build_optimizer(self.model, config.optimizer)
        decay = config.training.ema_decay
        self.average = WeightAverage(self.model, decay=decay) if decay else None
        self.train_step = TrainStep(
            self.model,
            self.optimizer,
            self.average,
            world=world,
            config=config.training,
            blank=Alphabet(config.text.alphabet).blank,
            seed=config.seed,
        )
        plan_settings: dict[str, Any] = {
            "batching": config.batching.model_dump(mode="json"),
            "augment": _speeds(config),
            "window_shards": config.data.window_shards,
            **(recordings or {}),
        }
        self.progress = checkpoints.Progress(
            seed=config.seed, manifest_fingerprint=manifest_fingerprint, plan=plan_settings
        )
        self._freeze_as_due()

    def _start_from(self, source: Bundle) -> None:
        """The bundle's weights; with another alphabet those of its encoder, and a decoder that begins anew."""
        weights = source.model.state_dict()
        if source.config.text != self._config.text:
            logger.info(
                "init_from: %r is not the alphabet of %s, %r: the encoder is kept, the decoder begins anew",
                self._config.text.alphabet,
                self._config.init_from,
                source.config.text.alphabet,
            )
            fresh = self.model.state_dict()
            weights = {name: (weights if name.startswith("encoder.") else fresh)[name] for name in weights}
        load_weights(self.model, weights, source=str(self._config.init_from))

    @property
    def num_parameters(self) -> int:
        """Trainable scalars of the model."""
        return num_parameters(self.model)

    def restore(self, saved: checkpoints.Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            ResumeError: It belongs to a run with another seed, other data or other batching.
        """
        checkpoints.check_same_run(saved, expected=self.progress)
        load_weights(self.model, saved.weights, source=saved.uri)
        restore_optimizer(self.optimizer, saved.trainer["optimizer"], source=saved.uri)
        self.train_step.scaler.load_state_dict(saved.trainer["scaler"])
        if self.average is not None:
            self.average.load(saved.averaged_weights or saved.weights)
        self.progress = saved.progress
        self._freeze_as_due()

    def forward_deployed(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The model with the weights that would be deployed now, in evaluation mode."""
        if self.average is None:
            return self.forward_plain(features, lengths)
        self.model.eval()
        return functional_call(self.model, self.average.weights, (features, lengths))  # type: ignore[no-any-return]

    def forward_plain(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The model with its own weights, in evaluation mode."""
        self.model.eval()
        return self.model(features, lengths)  # type: ignore[no-any-return]

    def snapshot(self) -> Snapshot:
        """A copy of everything that is saved, for a thread that writes it while training goes on."""
        copied = host_copy(
            {
                "weights": self.model.state_dict(),
                "averaged": self.average.weights if self.average else None,
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.train_step.scaler.state_dict(),
            }
        )
        return Snapshot(
            progress=self.progress,
            bundle=self._bundle_config(),
            weights=copied["weights"],
            averaged_weights=copied["averaged"],
            trainer={"optimizer": copied["optimizer"], "scaler": copied["scaler"]},
        )

    def _bundle_config(self) -> BundleConfig:
        metrics = self.progress.metrics
        training: dict[str, Any] = {
            "run": self._config.name,
            "step": self.progress.global_step,
            "epoch": self.progress.epoch,
            "wer": metrics.get("wer"),
            "cer": metrics.get("cer"),
            "run_config": self._config.model_dump(mode="json"),
        }
        features, text, model = self._config.features, self._config.text, self._config.model
        return BundleConfig(features=features, text=text, model=model, training=training)

    def advance(self, *, is_last_of_epoch: bool) -> None:
        """Count one optimizer step."""
        progress = self.progress
        epoch, step = (progress.epoch + 1, 0) if is_last_of_epoch else (progress.epoch, progress.step + 1)
        self.progress = replace(progress, epoch=epoch, step=step, global_step=progress.global_step + 1)
        self._freeze_as_due()

    def _freeze_as_due(self) -> None:
        """The encoder stays as it is in the run's first `training.freeze_encoder_epochs`."""
        self.train_step.freeze_encoder(self.progress.epoch < self._config.training.freeze_encoder_epochs)


def _speeds(config: RunConfig) -> dict[str, Any]:
    """The augmentation settings that change lengths and so the plan."""
    augment = config.augment.model_dump(mode="json")
    return {key: value for key, value in augment.items() if key.startswith("speed")}
