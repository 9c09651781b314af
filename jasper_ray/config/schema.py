"""Every knob of a run, as one tree of frozen models: `RunConfig`.

Units are in the names (`_s` seconds, `_hz` hertz, `_db` decibels); the sentence under a knob is its help text in
`python -m jobs.train --help`. Where NVIDIA's Jasper had the same knob, docs/from-nvidia.md says which one it is.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from jasper_ray.config.data import ALIGN_FRAMES, BatchingConfig, DataConfig, LoaderConfig
from jasper_ray.config.model import ModelConfig
from jasper_ray.config.speech import AugmentConfig, FeatureConfig, TextConfig
from jasper_ray.config.strict import StrictModel


class OptimizerConfig(StrictModel):
    """How gradients change the weights."""

    name: Literal["novograd", "adamw"] = "novograd"
    """Optimizer."""
    lr: float = Field(0.01, gt=0)
    """Peak learning rate."""
    beta1: float = Field(0.95, ge=0, lt=1)
    """Momentum."""
    beta2: float = Field(0.0, ge=0, lt=1)
    """Decay of the second moment (NVIDIA's Novograd uses 0; AdamW wants 0.98 or so)."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator."""
    weight_decay: float = Field(1e-3, ge=0)
    """Weight decay."""


class ScheduleConfig(StrictModel):
    """The learning rate over the run. Warm-up, hold and decay are in epochs and may be fractions."""

    policy: Literal["exponential", "polynomial", "cosine", "constant"] = "exponential"
    """Decay after the hold: gamma once per epoch, a power of the remaining steps, half a cosine to the end, or none."""
    warmup_epochs: float = Field(2.0, ge=0)
    """Epochs of linearly rising learning rate."""
    hold_epochs: float = Field(140.0, ge=0)
    """Epochs at the peak after warm-up."""
    gamma: float = Field(0.981, gt=0, le=1)
    """For `exponential`: factor per epoch."""
    power: float = Field(2.0, gt=0)
    """For `polynomial`: exponent of the remaining share of steps."""
    min_lr: float = Field(1e-5, ge=0)
    """The learning rate never falls below this."""


class TrainingConfig(StrictModel):
    """The training loop."""

    epochs: int = Field(440, ge=1)
    """Length of the whole run; the schedule depends on it."""
    stop_after_steps: int | None = Field(None, ge=1)
    """Stop this job when the run has made so many steps in all (checkpoint written); the schedule stays."""
    stop_after_epochs: int | None = Field(None, ge=1)
    """Stop this job when the run has made so many epochs in all; the schedule stays."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the encoder; CTC and log-softmax are always fp32."""
    convolution: Literal["conv1d", "channels_last", "frequency", "auto"] = "conv1d"
    """How convolutions are computed: by torch's own, in another layout, in the frequency domain (several times faster
    for wide kernels, more rounding in bf16), or each in the fastest way known (docs/convolutions.md)."""
    activation_checkpointing: bool = False
    """Keep only the inputs of each block for the backward pass and compute the rest twice: less memory, a third more
    arithmetic, the same numbers."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay of the averaged weights that are evaluated and deployed; 0 turns averaging off."""
    log_every_steps: int = Field(25, ge=1)
    """Steps between two progress lines."""
    log_utterances: bool = False
    """Write the ids of every step's utterances, by micro-batch, into the log."""
    sample_every_steps: int = Field(100, ge=1)
    """Steps between two reference and hypothesis samples from the training batch."""
    evaluate_every_steps: int | None = Field(None, ge=1)
    """Steps between evaluations; null evaluates after every `evaluate_every_epochs`."""
    evaluate_every_epochs: int = Field(1, ge=1)
    """Epochs between evaluations; the end of the run is always evaluated."""
    evaluate_plain_weights: bool = False
    """Also evaluate the weights without averaging (NVIDIA's `dev` beside `dev_ema`)."""
    evaluation_seconds_per_batch: float = Field(160.0, gt=0)
    """Padded seconds of audio in one evaluation batch."""
    max_grad_norm: float | None = Field(None, gt=0)
    """Longer gradients (of all parameters together, over the mean loss) are scaled down to this norm; null never does.
    Novograd takes no notice: it normalises the gradient of each tensor."""
    max_nonfinite_steps: int = Field(20, ge=0)
    """Consecutive steps with infinite or undefined loss or gradient that are skipped before the run stops."""
    cudnn_benchmark: bool = True
    """Let cuDNN time its convolution algorithms (GPU only)."""


class CheckpointConfig(StrictModel):
    """When the run is saved and which saves are kept."""

    every_steps: int | None = Field(None, ge=1)
    """Steps between checkpoints, in addition to those by epoch; null saves by epoch only."""
    every_epochs: int = Field(10, ge=1)
    """Epochs between checkpoints; the end of a job is always saved."""
    keep_last: int = Field(2, ge=1)
    """Newest checkpoints to keep."""
    keep_epochs: tuple[int, ...] = (100, 200, 300, 400)
    """Checkpoints of these epochs are kept for ever."""
    best_from_epoch: int = Field(1, ge=1)
    """The bundle with the lowest word error rate is kept from this epoch on."""


class ClusterConfig(StrictModel):
    """What the run asks of the Ray cluster."""

    num_workers: int = Field(1, ge=1)
    """Training processes (one per GPU)."""
    use_gpu: bool = False
    """Give each worker one GPU (NCCL); without, workers use CPUs (gloo)."""
    cpus_per_worker: float = Field(1.0, gt=0)
    """CPUs reserved for each worker; also its number of torch threads."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """How workers are spread over nodes (Ray placement strategy)."""
    max_failures: int = Field(3, ge=0)
    """Worker or node failures survived by restarting from the last checkpoint."""
    wait_for_nodes_s: float = Field(0.0, ge=0)
    """How long to wait for an autoscaler to add missing nodes before the run is refused."""
    startup_timeout_s: float = Field(60.0, gt=0)
    """How long to wait for the workers to be placed on nodes that could hold them."""
    health_check_interval_s: float = Field(0.5, gt=0)
    """How often the driver looks for dead workers; an evaluation waits for it when the one before is not yet taken."""
    collective_timeout_s: float = Field(300.0, gt=0)
    """How long a worker waits for the others in a collective operation."""


class RunConfig(StrictModel):
    """A whole run."""

    name: str = Field("jasper", pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the run; letters, digits, dot, dash and underscore."""
    output: str = "runs/jasper"
    """Folder for checkpoints, logs and the bundle, local or s3:// (several nodes need a shared one)."""
    resume: Literal["auto", "never", "must"] = "auto"
    """`auto`: go on from the newest good checkpoint in `output`; `never`: refuse one; `must`: demand one."""
    init_from: str | None = None
    """Bundle whose weights a new run starts from; under another `text.alphabet` its decoder begins anew."""
    seed: int = Field(0, ge=0)
    """Seed of every random draw."""
    features: FeatureConfig = FeatureConfig()
    text: TextConfig = TextConfig()
    augment: AugmentConfig = AugmentConfig()
    data: DataConfig = DataConfig()
    batching: BatchingConfig = BatchingConfig()
    loader: LoaderConfig = LoaderConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    training: TrainingConfig = TrainingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        ramp_epochs = self.schedule.warmup_epochs + self.schedule.hold_epochs
        if self.schedule.policy in ("polynomial", "cosine") and ramp_epochs >= self.training.epochs:
            raise ValueError(
                f"schedule.warmup_epochs + schedule.hold_epochs = {ramp_epochs} must be below "
                f"training.epochs={self.training.epochs}: {self.schedule.policy} decay needs steps to decay over"
            )
        if self.augment.speed_method == "folded" and self.features.flavour != "default":
            raise ValueError(
                f"augment.speed_method=folded needs features.flavour=default, got {self.features.flavour!r}: it is an "
                "approximation of the default features only"
            )
        if self.loader.backend == "dali" and self.augment.speed_method == "folded":
            raise ValueError("augment.speed_method=folded needs loader.backend=torch: DALI takes resampled audio")
        if self.loader.device == "gpu" and self.loader.backend != "dali":
            raise ValueError("loader.device=gpu needs loader.backend=dali: the torch loader computes on the CPU")
        return self

    @model_validator(mode="after")
    def _model_can_be_packed(self) -> Self:
        """Rows of several utterances are exact only with masks, and their gaps must not count in batch norm."""
        if self.batching.policy == "packed":
            if not self.model.masked:
                raise ValueError(
                    "batching.policy=packed needs model.masked=true: without masks utterances leak into each other"
                )
            if self.model.batch_norm_padding != "exclude":
                raise ValueError(
                    "batching.policy=packed needs model.batch_norm_padding=exclude: else gaps and ends of rows would "
                    "count as speech in batch norm"
                )
            if ALIGN_FRAMES % self.model.total_stride:
                raise ValueError(
                    f"batching.policy=packed needs a model whose strides multiply to a divisor of {ALIGN_FRAMES}, "
                    f"got {self.model.total_stride}: utterances begin at multiples of {ALIGN_FRAMES} feature frames"
                )
            gap_s = self.model.packing_gap_frames * self.features.hop_s
            if self.batching.gap_seconds < gap_s - 1e-9:
                raise ValueError(
                    f"batching.gap_seconds={self.batching.gap_seconds} is less than the {gap_s:g} s that the widest "
                    f"convolution of model.preset={self.model.preset} reaches: neighbours in a row would mix"
                )
        return self
