"""Knobs of what the model hears and writes: features, alphabet, augmentation."""

from typing import Literal, Self, TypeVar

import numpy as np
from pydantic import Field, model_validator

from jasper_ray.config.strict import StrictModel

ENGLISH_ALPHABET = " abcdefghijklmnopqrstuvwxyz'"

Lengths = TypeVar("Lengths", int, np.ndarray)


class FeatureConfig(StrictModel):
    """How a waveform becomes log-mel features. Training and serving share one instance through the bundle."""

    flavour: Literal["default", "nvidia_torch", "nvidia_dali"] = "default"
    """Whose details: this project's, or those of NVIDIA's featurizer or DALI pipeline, for models trained with them."""
    sample_rate_hz: int = Field(16000, ge=1000)
    """Rate that all audio is resampled to."""
    window_s: float = Field(0.02, gt=0)
    """Length of one analysis window."""
    hop_s: float = Field(0.01, gt=0)
    """Step from one feature frame to the next."""
    window: Literal["hann", "hamming", "none"] = "hann"
    """Shape of the analysis window (symmetric; `nvidia_dali` has a Hann window half a sample further in)."""
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
    log_floor: float = Field(1e-20, gt=0)
    """Added to mel energies before the logarithm (`nvidia_dali`: their least value); NeMo's models have 2**-24."""
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

    def num_frames(self, num_samples: Lengths) -> Lengths:
        """Frames of waveforms of so many samples: one per begun hop; `nvidia_dali` has `floor(N / hop) + 1`."""
        if self.flavour == "nvidia_dali":
            return num_samples // self.hop_samples + 1
        return -(-num_samples // self.hop_samples)

    @model_validator(mode="after")
    def _nvidias_dali_has_one_kind(self) -> Self:
        if self.flavour == "nvidia_dali" and (self.window != "hann" or self.normalize != "per_feature"):
            raise ValueError(
                f"flavour=nvidia_dali has window=hann and normalize=per_feature only, as NVIDIA's DALI pipeline, got "
                f"window={self.window} and normalize={self.normalize}: change them, or use flavour=nvidia_torch"
            )
        return self

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
    speed_method: Literal["resample", "folded"] = "resample"
    """`resample` by soxr; `folded` changes hop, window and mel bank instead: faster, a little less exact, and not known
    to give the same word error rate (docs/speed-perturbation.md)."""
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
    noise: tuple[str, ...] = ()
    """Datasets of noises (`jobs.prepare --audio-only`), one of which is added to an utterance."""
    noise_probability: float = Field(0.5, ge=0, le=1)
    """Share of utterances that noise is added to."""
    noise_snr_min_db: float = Field(5.0, ge=-100, le=100)
    """Loudest noise: power of the utterance over that of the noise."""
    noise_snr_max_db: float = Field(20.0, ge=-100, le=100)
    """Softest noise."""
    reverb: tuple[str, ...] = ()
    """Datasets of room impulse responses (`jobs.prepare --audio-only`), one of which an utterance sounds in."""
    reverb_probability: float = Field(0.5, ge=0, le=1)
    """Share of utterances that sound in a room."""
    gain_min_db: float = Field(0.0, ge=-100, le=100)
    """Softest: by how much the loudness of an utterance changes."""
    gain_max_db: float = Field(0.0, ge=-100, le=100)
    """Loudest."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        for low, high in (
            ("speed_min", "speed_max"),
            ("freq_mask_min_bins", "freq_mask_max_bins"),
            ("time_mask_min_frames", "time_mask_max_frames"),
            ("noise_snr_min_db", "noise_snr_max_db"),
            ("gain_min_db", "gain_max_db"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low}={getattr(self, low)} is above {high}={getattr(self, high)}")
        return self
