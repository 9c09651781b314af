"""Knobs of the data plane: corpora, datasets, batching, loaders."""

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from jasper_ray.config.strict import StrictModel

ALIGN_FRAMES = 8
"""Utterances of a packed row start at multiples of so many feature frames: of the model's stride, so that its encoder
frames are those of the utterance alone."""


class CorpusConfig(StrictModel):
    """Speech as somebody keeps it: a folder or file in one of the formats that `data/readers` reads."""

    source: str
    """Path of the corpus; `librispeech:dev-clean,test-clean` downloads it; for `synthetic` its name."""
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
        "folder",
        "synthetic",
    ] = "auto"
    """How the corpus is laid out; `auto` looks at the files."""
    where: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    """Take only utterances whose field has this value or one of these, e.g. {split: train}."""
    download_dir: str = "~/.cache/jasper_ray/downloads"
    """Folder for what is downloaded; every node that prepares must see it."""
    mirror: str = ""
    """Web address of a folder with the archives, tried before the public mirrors."""
    keep_archives: bool = True
    """Whether a downloaded .tar.gz stays once it is unpacked to a .tar."""


class PreparationConfig(StrictModel):
    """Which utterances of a corpus become part of a dataset, and how they are written."""

    shard_mb: float = Field(256.0, gt=0)
    """Megabytes of audio in a shard."""
    min_duration_s: float = Field(0.0, ge=0)
    """Shorter utterances are left out."""
    max_duration_s: float | None = Field(None, gt=0)
    """Longer utterances are left out; without, every length is taken."""
    min_characters: int = Field(1, ge=1)
    """Transcripts with fewer characters after normalisation are left out."""
    max_characters_per_s: float = Field(100.0, gt=0)
    """Faster transcripts are left out: CTC puts out 50 to 100 characters a second at most, speech has 10 to 25."""
    reject_text: str | None = None
    """Regular expression: transcripts in which it is found, as written in the corpus, are left out."""
    speeds: tuple[float, ...] = ()
    """Copies at other speeds beside each utterance, e.g. [0.9, 1.1] for NVIDIA's recipe of 2020; stored as FLAC."""
    normalize: Literal["basic", "nvidia", "nvidia-exact", "none"] = "basic"
    """How transcripts are cleaned; `nvidia` also writes English numbers, abbreviations and symbols in words."""
    case: Literal["auto", "lower", "upper", "keep"] = "auto"
    """Case of transcripts; `auto` is lower unless the alphabet has capital letters, then it is kept."""
    unicode_form: Literal["NFC", "NFKC"] = "NFC"
    """NFKC also takes apart ligatures, full-width letters and the like."""
    audio_only: bool = False
    """Recordings without transcripts (noise, room impulse responses): texts are left empty and not looked at."""

    @model_validator(mode="after")
    def _filters_make_sense(self) -> Self:
        if self.max_duration_s is not None and self.max_duration_s <= self.min_duration_s:
            raise ValueError(
                f"max_duration_s={self.max_duration_s} must be above min_duration_s={self.min_duration_s}: "
                "nothing would be left"
            )
        if self.case in ("upper", "keep") and self.normalize.startswith("nvidia"):
            raise ValueError(
                f"case={self.case!r} has no meaning with normalize={self.normalize!r}, whose texts are in lower case: "
                "use normalize=basic"
            )
        bad = [speed for speed in self.speeds if not 0.5 <= speed <= 2.0 or speed == 1.0]
        if bad or len(set(self.speeds)) != len(self.speeds):
            raise ValueError(
                f"speeds must be different numbers from 0.5 to 2 without 1 (the original is always kept), "
                f"got {list(self.speeds)}"
            )
        if self.reject_text is not None:
            try:
                re.compile(self.reject_text)
            except re.error as error:
                raise ValueError(f"reject_text={self.reject_text!r} is not a regular expression: {error}") from None
        return self


class DatasetConfig(StrictModel):
    """A prepared dataset: `manifest.parquet` and `shards/`."""

    path: str
    """Folder of the dataset, local or s3://."""
    corpora: tuple[CorpusConfig, ...] = ()
    """If `path` holds no dataset yet, it is prepared from these first."""
    preparation: PreparationConfig = PreparationConfig()
    """How it is prepared then."""


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
    window_shards: int | None = Field(None, ge=2)
    """Training shards on a node at a time, for a corpus larger than `cache_max_gb`: utterances are shuffled within half
    as many, in turn; null shuffles the whole corpus."""


class BatchingConfig(StrictModel):
    """How utterances are put into micro-batches and micro-batches into steps; workers only share them out."""

    policy: Literal["fixed", "seconds", "packed"] = "fixed"
    """`fixed`: a count of utterances (NVIDIA's recipe); `seconds`: bounded padded audio, little padding; `packed`:
    several utterances per row, least padding, batches of one shape."""
    utterances_per_microbatch: int = Field(32, ge=1)
    """Largest number of utterances in a micro-batch (`fixed` and `seconds`)."""
    seconds_per_microbatch: float = Field(320.0, gt=0)
    """For `seconds`: utterances times the longest of them stays below this."""
    row_seconds: float = Field(44.0, gt=0)
    """For `packed`: length of a row; at least that of the longest utterance."""
    rows_per_microbatch: int = Field(8, ge=1)
    """For `packed`: rows of a micro-batch, so that row_seconds times this is the padded audio of each."""
    gap_seconds: float = Field(0.56, ge=0)
    """For `packed`: silence between two utterances of a row; 0.56 covers Jasper's widest convolution."""
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
