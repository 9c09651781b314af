"""The utterances of the loader benchmark: FLAC in memory, single files and a dataset of this project.

Real speech if there is any (LibriSpeech in the folder that JASPER_SPEECH_DATA names), noise otherwise. Where the corpus
has fewer utterances than are asked for, they come again, each time cut at another place and its two pieces exchanged:
the same lengths and the same speech, other bytes.
"""

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from jasper_ray.data.manifest import Manifest, Utterance, manifest_of, read_manifest, write_manifest
from jasper_ray.data.shards import ShardRow, put_shard, shard_name

RATE_HZ = 16000
SHARD_BYTES = 64_000_000
"""Size of a shard, for every format that has shards."""
CUT_S = 1.37


@dataclass(frozen=True)
class Spoken:
    """One utterance, encoded."""

    id: str
    text: str
    audio: bytes
    num_samples: int


@dataclass(frozen=True)
class BenchmarkCorpus:
    """The same utterances as files and as a dataset of this project."""

    kind: str
    """Where the speech is from."""
    utterances: list[Spoken]
    files: list[Path]
    manifest: Manifest

    @property
    def num_bytes(self) -> int:
        """Bytes of all encoded audio."""
        return sum(len(utterance.audio) for utterance in self.utterances)


def speech_folder() -> Path | None:
    """A folder with real speech, `librispeech/manifest.jsonl` in it, or None."""
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("JASPER_SPEECH_DATA", default)) / "librispeech"
    return folder if (folder / "manifest.jsonl").exists() else None


def make_corpus(folder: Path, num_utterances: int) -> BenchmarkCorpus:
    """Write files and dataset of so many utterances under a folder."""
    speech = speech_folder()
    source = _noise() if speech is None else _librispeech(speech)
    originals = [pair for _, pair in zip(range(num_utterances), source, strict=False)]
    (folder / "files").mkdir(parents=True)
    dataset = str(folder / "dataset")
    utterances, files, rows = [], [], []
    shard: list[ShardRow] = []
    shard_number = 0
    for number in range(num_utterances):
        waveform, text = originals[number % len(originals)]
        again = number // len(originals)
        audio = _flac(np.roll(waveform, -int(again * CUT_S * RATE_HZ)))
        spoken = Spoken(f"utt-{number:06d}", text, audio, len(waveform))
        path = folder / "files" / f"{spoken.id}.flac"
        path.write_bytes(audio)
        place = shard_name(shard_number), len(shard)
        rows.append(Utterance(spoken.id, text, len(waveform) / RATE_HZ, len(waveform), RATE_HZ, "", *place))
        shard.append(ShardRow(spoken.id, audio, path.name, text))
        if number == num_utterances - 1 or sum(len(row.audio) for row in shard) >= SHARD_BYTES:
            put_shard(dataset, shard_number, shard)
            shard, shard_number = [], shard_number + 1
        utterances.append(spoken)
        files.append(path)
    write_manifest(dataset, manifest_of(rows))
    kind = "noise" if speech is None else f"{len(originals)} utterances of LibriSpeech, repeated with a cut elsewhere"
    return BenchmarkCorpus(kind, utterances, files, read_manifest(dataset))


def _librispeech(folder: Path) -> Iterator[tuple[np.ndarray, str]]:
    for line in (folder / "manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        waveform, rate_hz = soundfile.read(folder / row["audio"], dtype="int16")
        assert rate_hz == RATE_HZ, f"{row['audio']} has a rate of {rate_hz} Hz"
        yield waveform, row["text"]


def _noise() -> Iterator[tuple[np.ndarray, str]]:
    """Noise of 4 to 16 s that swells and fades, with a text of a LibriSpeech utterance's length."""
    for number in range(50):
        random = np.random.default_rng(number)
        num_samples = int(random.uniform(4, 16) * RATE_HZ)
        swell = np.sin(np.linspace(0.1, 3, num_samples)) ** 2
        waveform = (random.standard_normal(num_samples) * 2000 * swell).astype(np.int16)
        yield waveform, "the quick brown fox " * (num_samples // (RATE_HZ * 4 // 3))


def _flac(waveform: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, RATE_HZ, format="FLAC")
    return file.getvalue()
