"""Every knob of a run, as one tree of frozen models: `RunConfig`.

Units are in the names (`_s` seconds, `_hz` hertz, `_db` decibels); the sentence under a knob is its help text in
`python -m jobs.train --help`. Where NVIDIA's Jasper had the same knob, docs/from-nvidia.md says which one it is.
"""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

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
    decay_biases_and_norms: bool = True
    """Weight decay on biases and batch norm too, as NVIDIA's recipes have it; false leaves them out."""
    encoder_lr_factor: float = Field(1.0, ge=0)
    """The encoder's learning rate is this times the schedule's."""
    decoder_lr_factor: float = Field(1.0, ge=0)
    """The decoder's learning rate is this times the schedule's: above 1 for one that begins anew (`init_from`)."""


class ScheduleConfig(StrictModel):
    """The learning rate over the run. Warm-up, hold and decay are in epochs and may be fractions."""

    policy: Literal["exponential", "polynomial", "cosine", "constant"] = "exponential"
    """Decay after the hold: gamma once per epoch, a power of the remaining steps, half a cosine to the end, or none."""
    warmup_epochs: float = Field(2.0, ge=0)
    """Epochs of rising learning rate."""
    warmup_shape: Literal["linear", "exponential"] = "linear"
    """How it rises: by equal steps, or from `min_lr` by equal factors (which `jobs.tune --lr-range-test` uses)."""
    hold_epochs: float = Field(140.0, ge=0)
    """Epochs at the peak after warm-up."""
    gamma: float = Field(0.981, gt=0, le=1)
    """For `exponential`: factor per epoch."""
    power: float = Field(2.0, gt=0)
    """For `polynomial`: exponent of the remaining share of steps."""
    min_lr: float = Field(1e-5, ge=0)
    """The learning rate never falls below this."""


class GradientsConfig(StrictModel):
    """How workers exchange gradients, once a step, in buckets that are sent while the last backward pass still runs."""

    compression: Literal["none", "bf16", "fp16", "powersgd"] = "none"
    """What is sent: fp32, halves, or (for slow networks) low-rank factors of each matrix, what they miss being carried
    over to the next step. With any but `none` the number of workers has an influence on the numbers, and with
    `powersgd` a resume begins without what was carried over."""
    powersgd_rank: int = Field(4, ge=1)
    """For `powersgd`: rank of the factors."""
    powersgd_start_step: int = Field(1000, ge=2)
    """For `powersgd`: steps of this job before it begins, with plain gradients."""
    bucket_mb: float = Field(25.0, gt=0)
    """Size of a bucket."""
    static_graph: bool = False
    """Let DDP take every step to be like the first instead of looking what it uses; only where each worker has one
    micro-batch in a step (`batching.microbatches_per_step` = `cluster.num_workers`): torch cannot sum several so."""


class TrainingConfig(StrictModel):
    """The training loop."""

    epochs: int = Field(440, ge=1)
    """Length of the whole run; the schedule depends on it."""
    stop_after_steps: int | None = Field(None, ge=1)
    """Stop this job when the run has made so many steps in all (checkpoint written); the schedule stays."""
    stop_after_epochs: int | None = Field(None, ge=1)
    """Stop this job when the run has made so many epochs in all; the schedule stays."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the encoder; CTC and log-softmax are always fp32. `tf32`: fp32 whose products a GPU may round to
    10 bits; `fp32` forbids it. `fp16` scales the loss, halving the scale after an overflow."""
    ctc: Literal["auto", "torch", "triton"] = "auto"
    """Who computes the CTC loss: torch, or on an NVIDIA GPU our own kernels in Triton, which give equal bits every time
    and leave all lengths on the GPU. `auto` is ours on such a GPU where the package triton is installed."""
    normalization: Literal["auto", "torch", "triton"] = "auto"
    """Who computes what lies between convolutions (batch norm, residual sum, ReLU, dropout, mask): torch, one pass over
    memory for each, or on an NVIDIA GPU our own kernels in Triton, two passes for all. `auto` is ours on such a GPU
    where the package triton is installed and channels lie together in memory (`convolution` other than conv1d)."""
    residuals: Literal["separate", "folded"] = "separate"
    """How dense residuals are computed: branch by branch, or as one product for each block, into whose weights the
    branches' batch norms are folded; their statistics follow from the covariance of each input. Meant for GPUs (5 to
    8 % of a step of Jasper 10x5 in BF16 on an H200, 2026-11); on a CPU it gains nothing."""
    freeze_encoder_epochs: int = Field(0, ge=0)
    """Epochs from the start of the run in which only the decoder learns and the encoder, its batch-norm statistics too,
    stays as `init_from` gave it; as many as `epochs` or more: always."""
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
    read_every_steps: int = Field(10, ge=1)
    """Steps between two looks of the host at losses and norms on the device (progress, samples, evaluations and
    checkpoints look too). A step that is not finite is skipped by the device at once; it is told, and counted for
    `max_nonfinite_steps`, at the next look."""
    max_nonfinite_steps: int = Field(20, ge=0)
    """Consecutive steps with infinite or undefined loss or gradient that are skipped before the run stops."""
    gradients: GradientsConfig = GradientsConfig()
    memory_probe: bool | None = None
    """Try the largest micro-batch that the plan can hold before training, so that one that does not fit says so at
    once; it changes no number. null: on a GPU only."""
    cuda_graphs: bool | None = None
    """Record forward and backward pass of each shape of micro-batch once and replay them as one, so that a fast GPU
    does not wait for Python (NVIDIA GPUs, with `ctc` by Triton). Workers then exchange their gradients after the
    backward pass instead of during it. null: where there is one worker."""
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


class LogsConfig(StrictModel):
    """Who hears of the run besides `log.jsonl` and the terminal."""

    tensorboard: bool = True
    """Write `tensorboard/` in the run's folder: `tensorboard --logdir RUN/tensorboard`."""
    dllogger: bool = False
    """Write `nvlog.json` in the run's folder with NVIDIA's DLLogger keys, so that parsers of their logs work."""
    wandb_project: str | None = None
    """Project at Weights & Biases (needs the extra `wandb`; WANDB_MODE=offline keeps it on the disk)."""
    mlflow_uri: str | None = None
    """MLflow's tracking URI, e.g. http://host:5000 (needs the extra `mlflow`); a folder only with
    MLFLOW_ALLOW_FILE_STORE=true, as MLflow wants it."""
    mlflow_experiment: str = "jasper"
    """MLflow's experiment."""


class ClusterConfig(StrictModel):
    """What the run asks of the Ray cluster."""

    num_workers: int | tuple[int, int] = 1
    """Training processes (one per GPU); `[min, max]`: as many as the nodes hold, also when nodes come or go."""
    use_gpu: bool = False
    """Give each worker one GPU (NCCL); without, workers use CPUs (gloo)."""
    cpus_per_worker: float = Field(1.0, gt=0)
    """CPUs reserved for each worker; also its number of torch threads."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """How workers are spread over nodes (Ray placement strategy)."""
    max_failures: int = Field(3, ge=0)
    """Worker or node failures survived by restarting from the last checkpoint."""
    resize_interval_s: float = Field(30.0, gt=0)
    """With `[min, max]`: how often to look whether the nodes hold another number of workers, at least 1."""
    wait_for_nodes_s: float = Field(0.0, ge=0)
    """How long to wait for an autoscaler to add missing nodes before the run is refused or, later on, ended."""
    startup_timeout_s: float = Field(60.0, gt=0)
    """How long to wait for the workers to be placed on nodes that could hold them."""
    silent_worker_s: float = Field(15.0, gt=0)
    """A worker that has not answered for so long is lost (its node died, its network was cut, it was stopped); a little
    more than Ray takes to see that a node is gone, or the new workers wait for a place on that node."""
    health_check_interval_s: float = Field(0.5, gt=0)
    """How often the driver looks for dead workers; an evaluation waits for it when the one before is not yet taken."""
    collective_timeout_s: float = Field(300.0, gt=0)
    """How long a worker waits for the others in a collective operation."""
    metrics: bool = True
    """Export the run's figures to Prometheus through Ray."""

    @field_validator("num_workers")
    @classmethod
    def _range_of_workers(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        lowest, highest = value if isinstance(value, tuple) else (value, value)
        if not 1 <= lowest <= highest:
            raise ValueError(f"must be a number from 1 or [min, max] with 1 <= min <= max, got {value}")
        return value

    @property
    def min_workers(self) -> int:
        """Fewer than these cannot train."""
        return self.num_workers[0] if isinstance(self.num_workers, tuple) else self.num_workers

    @property
    def max_workers(self) -> int:
        """More than these are never started."""
        return self.num_workers[1] if isinstance(self.num_workers, tuple) else self.num_workers


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
    logs: LogsConfig = LogsConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        ramp_epochs = self.schedule.warmup_epochs + self.schedule.hold_epochs
        if self.schedule.policy in ("polynomial", "cosine") and ramp_epochs >= self.training.epochs:
            raise ValueError(
                f"schedule.warmup_epochs + schedule.hold_epochs = {ramp_epochs} must be below "
                f"training.epochs={self.training.epochs}: {self.schedule.policy} decay needs steps to decay over"
            )
        cluster, share = self.cluster, self.batching.microbatches_per_step
        one_each = cluster.min_workers == cluster.max_workers == share
        if self.training.gradients.static_graph and cluster.max_workers > 1 and not one_each:
            raise ValueError(
                f"training.gradients.static_graph=true needs batching.microbatches_per_step = cluster.num_workers, got "
                f"{self.batching.microbatches_per_step} and {self.cluster.num_workers}: torch's DDP cannot sum the "
                "gradients of several micro-batches of a worker with it"
            )
        for key in ("ctc", "normalization"):
            if getattr(self.training, key) == "triton" and not cluster.use_gpu:
                raise ValueError(
                    f"training.{key}=triton needs cluster.use_gpu=true, got false: its kernels run on NVIDIA GPUs "
                    f"only. Without one take training.{key}=auto or torch"
                )
        if self.training.cuda_graphs and not cluster.use_gpu:
            raise ValueError(
                "training.cuda_graphs=true needs cluster.use_gpu=true, got false: leave it out, or give workers GPUs"
            )
        if self.training.cuda_graphs and self.training.ctc == "torch":
            raise ValueError(
                "training.cuda_graphs=true cannot be had with training.ctc=torch, which reads lengths on the host: "
                "take training.ctc=auto or triton, or cuda_graphs=false"
            )
        if self.training.cuda_graphs and self.training.gradients.compression == "powersgd":
            raise ValueError(
                "training.cuda_graphs=true cannot be had with training.gradients.compression=powersgd, which works on "
                "gradients while the backward pass runs: take none, bf16 or fp16, or cuda_graphs=false"
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
