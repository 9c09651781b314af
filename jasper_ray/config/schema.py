"""Every knob of a run, as one tree of frozen models: `RunConfig`.

Units are in the names (`_s` seconds, `_hz` hertz, `_db` decibels); the sentence under a knob is its help text in
`python -m jobs.train --help`. Where NVIDIA's Jasper had the same knob, docs/from-nvidia.md says which one it is.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from jasper_ray.config.model import ModelConfig
from jasper_ray.config.strict import StrictModel

ENGLISH_ALPHABET = " abcdefghijklmnopqrstuvwxyz'"


class FeatureConfig(StrictModel):
    """How a waveform becomes log-mel features. Training and serving share one instance through the bundle."""

    sample_rate_hz: int = Field(16000, ge=1000)
    """Rate that all audio is resampled to."""
    window_s: float = Field(0.02, gt=0)
    """Length of one analysis window."""
    hop_s: float = Field(0.01, gt=0)
    """Step from one feature frame to the next."""
    window: Literal["hann", "hamming", "none"] = "hann"
    """Shape of the analysis window (symmetric)."""
    fft_size: int = Field(512, ge=2)
    """Points of the Fourier transform; the window is zero-padded to it."""
    num_mels: int = Field(64, ge=1)
    """Mel bins, the model's input width."""
    low_hz: float = Field(0.0, ge=0)
    """Lower edge of the mel bank."""
    high_hz: float | None = Field(None, gt=0)
    """Upper edge of the mel bank; null is half the sample rate."""
    preemphasis: float = Field(0.97, ge=0, lt=1)
    """y[t] = x[t] - preemphasis * x[t-1]; 0 turns it off."""
    dither: float = Field(1e-5, ge=0)
    """Noise added to the training waveform (full scale is 1). Evaluation and serving never add any."""
    normalize: Literal["per_feature", "all_features", "none"] = "per_feature"
    """Mean and deviation removed per utterance: in each mel bin, over all bins, or not at all."""
    pad_to_multiple: int = Field(16, ge=1)
    """Frames of a batch are padded with zeros to a multiple of this."""

    @property
    def window_samples(self) -> int:
        """Samples in one analysis window."""
        return round(self.window_s * self.sample_rate_hz)

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return round(self.hop_s * self.sample_rate_hz)

    @model_validator(mode="after")
    def _windows_fit(self) -> Self:
        if self.hop_s > self.window_s:
            raise ValueError(
                f"hop_s must be in (0, window_s={self.window_s}], got {self.hop_s}: "
                "a longer hop skips the audio between two windows"
            )
        if self.window_samples > self.fft_size:
            raise ValueError(
                f"window_s={self.window_s} is {self.window_samples} samples, more than fft_size={self.fft_size}: "
                "raise fft_size or shorten window_s"
            )
        nyquist_hz = self.sample_rate_hz / 2
        if not self.low_hz < (self.high_hz or nyquist_hz) <= nyquist_hz:
            raise ValueError(
                f"low_hz={self.low_hz} and high_hz={self.high_hz} must satisfy low_hz < high_hz <= {nyquist_hz} "
                "(half the sample rate)"
            )
        return self


class TextConfig(StrictModel):
    """What the model can write."""

    alphabet: str = ENGLISH_ALPHABET
    """One label per character, in this order; the CTC blank comes after the last."""

    @model_validator(mode="after")
    def _alphabet_is_usable(self) -> Self:
        doubled = sorted({c for c in self.alphabet if self.alphabet.count(c) > 1})
        if not self.alphabet or doubled:
            raise ValueError(f"alphabet must hold each character once, got {self.alphabet!r} (doubled: {doubled})")
        return self


class AugmentConfig(StrictModel):
    """Random changes to training utterances, each a function of (seed, epoch, utterance)."""

    speed_min: float = Field(1.0, ge=0.5, le=2.0)
    """Slowest playing speed; 0.9 makes an utterance 1/0.9 times longer and lower in pitch."""
    speed_max: float = Field(1.0, ge=0.5, le=2.0)
    """Fastest playing speed."""
    speed_discrete: bool = False
    """Draw speed_min, 1 or speed_max instead of any speed between them."""
    speed_probability: float = Field(1.0, ge=0, le=1)
    """Share of utterances whose speed is changed."""
    freq_masks: int = Field(0, ge=0)
    """SpecAugment: bands of mel bins set to zero."""
    freq_mask_min_bins: int = Field(0, ge=0)
    """SpecAugment: narrowest band, in mel bins."""
    freq_mask_max_bins: int = Field(20, ge=0)
    """SpecAugment: widest band, in mel bins."""
    time_masks: int = Field(0, ge=0)
    """SpecAugment: stretches of time set to zero."""
    time_mask_min_frames: int = Field(0, ge=0)
    """SpecAugment: shortest stretch, in feature frames (10 ms)."""
    time_mask_max_frames: int = Field(75, ge=0)
    """SpecAugment: longest stretch, in feature frames (10 ms)."""
    time_mask_max_share: float = Field(1.0, gt=0, le=1)
    """SpecAugment: a stretch is never longer than this share of its utterance."""
    cutout_masks: int = Field(0, ge=0)
    """Cutout: rectangles set to zero."""
    cutout_max_bins: int = Field(20, ge=0)
    """Cutout: widest rectangle, in mel bins."""
    cutout_max_frames: int = Field(5, ge=0)
    """Cutout: longest rectangle, in feature frames (10 ms)."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        for low, high in (
            ("speed_min", "speed_max"),
            ("freq_mask_min_bins", "freq_mask_max_bins"),
            ("time_mask_min_frames", "time_mask_max_frames"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low}={getattr(self, low)} is above {high}={getattr(self, high)}")
        return self


class CorpusConfig(StrictModel):
    """Speech as somebody keeps it: a folder or file in one of the formats that `data/readers` reads."""

    source: str
    """Path of the corpus; for `synthetic` any text."""
    format: Literal[
        "auto",
        "jsonl",
        "librispeech",
        "nvidia",
        "nemo",
        "lhotse",
        "kaldi",
        "table",
        "webdataset",
        "huggingface",
        "synthetic",
    ] = "auto"
    """How the corpus is laid out; `auto` looks at the files."""
    where: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    """Take only utterances whose field has this value or one of these, e.g. {split: train}."""


class DatasetConfig(StrictModel):
    """A prepared dataset: `manifest.parquet` and `shards/`."""

    path: str
    """Folder of the dataset, local or s3://."""
    corpora: tuple[CorpusConfig, ...] = ()
    """If `path` holds no dataset yet, it is prepared from these first."""


class DataConfig(StrictModel):
    """What to learn from and what to be judged by."""

    train: tuple[DatasetConfig, ...] = ()
    """Datasets to train on, read as one."""
    evaluation: tuple[DatasetConfig, ...] = ()
    """Datasets to measure word error rate on, read as one."""
    min_duration_s: float = Field(0.1, ge=0)
    """Shorter training utterances are left out (counted in the log)."""
    max_duration_s: float = Field(16.7, gt=0)
    """Longer training utterances are left out (counted in the log). Evaluation takes every length."""
    infeasible: Literal["error", "skip"] = "error"
    """What to do with an utterance too short for its transcript (CTC): stop and name it, or leave it out and log it."""
    cache_dir: str = "~/.cache/jasper_ray/shards"
    """Folder on each node for shards fetched from an object store."""
    cache_max_gb: float = Field(100.0, gt=0)
    """Size limit of that folder; the oldest shards go first."""


class BatchingConfig(StrictModel):
    """How utterances are put into micro-batches and micro-batches into steps; workers only share them out."""

    policy: Literal["fixed", "seconds"] = "fixed"
    """`fixed`: a count of utterances (NVIDIA's recipe); `seconds`: bounded padded audio, little padding."""
    utterances_per_microbatch: int = Field(32, ge=1)
    """Largest number of utterances in a micro-batch (both policies)."""
    seconds_per_microbatch: float = Field(320.0, gt=0)
    """For `seconds`: utterances times the longest of them stays below this."""
    microbatches_per_step: int = Field(16, ge=1)
    """Micro-batches per optimizer step over all workers; accumulation is this divided by the workers."""


class LoaderConfig(StrictModel):
    """Who turns audio into features."""

    backend: Literal["torch", "dali"] = "torch"
    """`torch`: soundfile, soxr and torch on CPU threads; `dali`: NVIDIA DALI."""
    device: Literal["cpu", "gpu"] = "cpu"
    """Where DALI computes features; the torch loader always uses the CPU."""
    num_threads: int = Field(2, ge=1)
    """Threads that decode and compute features in each worker."""
    prefetch_microbatches: int = Field(4, ge=1)
    """Micro-batches made ready ahead of training."""


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

    policy: Literal["exponential", "polynomial", "constant"] = "exponential"
    """Decay after the hold: gamma once per epoch, a power of the remaining steps, or none."""
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
    """Bundle whose weights a new run starts from."""
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
        if self.schedule.policy == "polynomial" and ramp_epochs >= self.training.epochs:
            raise ValueError(
                f"schedule.warmup_epochs + schedule.hold_epochs = {ramp_epochs} must be below "
                f"training.epochs={self.training.epochs}: polynomial decay needs steps to decay over"
            )
        if self.loader.device == "gpu" and self.loader.backend != "dali":
            raise ValueError("loader.device=gpu needs loader.backend=dali: the torch loader computes on the CPU")
        return self
