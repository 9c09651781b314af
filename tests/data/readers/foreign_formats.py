"""The same utterances, written down in every format that there is a reader for."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from jasper_ray.audio.decode import decode_audio

GAP_SAMPLES = 1234


@dataclass(frozen=True)
class Spoken:
    """An utterance of LibriSpeech with its file."""

    id: str
    text: str
    speaker: str
    audio: bytes

    @property
    def samples(self) -> np.ndarray:
        return soundfile.read(io.BytesIO(self.audio), dtype="int16")[0]

    @property
    def rate_hz(self) -> int:
        return int(soundfile.info(io.BytesIO(self.audio)).samplerate)

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.rate_hz


@dataclass(frozen=True)
class Foreign:
    """A format as it is written here."""

    format: str
    """As `--format` names it."""
    write: Callable[[Path, Sequence[Spoken]], Path]
    """Into an empty folder; returns what `jobs.prepare` is given."""
    same_bytes: bool = True
    """Whether the files are in it as they are; otherwise their samples are."""
    has_speakers: bool = True
    where: Mapping[str, str] | None = None


def flac_files(folder: Path, spoken: Iterable[Spoken]) -> dict[str, str]:
    """Name below the folder, by utterance."""
    names = {}
    for utterance in spoken:
        names[utterance.id] = f"audio/{utterance.speaker}/{utterance.id}.flac"
        (folder / names[utterance.id]).parent.mkdir(parents=True, exist_ok=True)
        (folder / names[utterance.id]).write_bytes(utterance.audio)
    return names


def lines(*rows: Any) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def librispeech(folder: Path, spoken: Sequence[Spoken]) -> Path:
    for utterance in spoken:
        speaker, chapter, _ = utterance.id.split("-")
        chapter_folder = folder / "some-subset" / speaker / chapter
        chapter_folder.mkdir(parents=True, exist_ok=True)
        (chapter_folder / f"{utterance.id}.flac").write_bytes(utterance.audio)
        with (chapter_folder / f"{speaker}-{chapter}.trans.txt").open("a") as transcripts:
            transcripts.write(f"{utterance.id} {utterance.text}\n")
    return folder


def librispeech_tar(folder: Path, spoken: Sequence[Spoken]) -> Path:
    root = librispeech(folder / "LibriSpeech", spoken)
    names = sorted(root.rglob("*.*"), reverse=True)
    return write_tar(folder / "a.tar", [(str(name.relative_to(folder)), name.read_bytes()) for name in names])


def jsonl(folder: Path, spoken: Sequence[Spoken]) -> Path:
    names = flac_files(folder, spoken)
    rows = [{"audio": names[u.id], "text": u.text, "id": u.id, "speaker": u.speaker} for u in spoken]
    (folder / "manifest.jsonl").write_text(lines(*rows))
    return folder


def nvidia(folder: Path, spoken: Sequence[Spoken]) -> Path:
    """WAV files as NVIDIA's converter makes them: at 0.9, 1 and 1.1 times the speed."""
    entries = []
    for utterance in spoken:
        files = []
        for speed in (0.9, 1.1, 1):
            name = f"wav/{utterance.id}{'' if speed == 1 else f'-{speed}'}.wav"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            waveform = decode_audio(utterance.audio, sample_rate_hz=utterance.rate_hz, speed=speed)
            samples = utterance.samples if speed == 1 else waveform
            soundfile.write(folder / name, samples, utterance.rate_hz, subtype="PCM_16")
            files.append({"fname": name, "speed": speed, "num_samples": len(samples)})
        entries.append(
            {"transcript": utterance.text.lower(), "files": files, "original_duration": utterance.duration_s}
        )
    (folder / "librispeech-wav.json").write_text(json.dumps(entries, indent=2))
    return folder


def nemo(folder: Path, spoken: Sequence[Spoken]) -> Path:
    names = flac_files(folder, spoken)
    rows = [
        {"audio_filepath": names[u.id], "duration": u.duration_s, "text": u.text.lower(), "speaker": u.speaker}
        for u in spoken
    ]
    (folder / "train.json").write_text(lines(*rows))
    return folder / "train.json"


def nemo_tarred(folder: Path, spoken: Sequence[Spoken]) -> Path:
    rows = []
    for shard in (0, 1):
        members = list(spoken)[shard::2]
        write_tar(folder / f"audio_{shard}.tar", [(f"{u.id}.flac", u.audio) for u in members])
        rows += [
            {"audio_filepath": f"{u.id}.flac", "duration": u.duration_s, "text": u.text, "shard_id": shard}
            for u in members
        ]
    (folder / "tarred_audio_manifest.json").write_text(lines(*rows))
    return folder


def recordings(folder: Path, spoken: Sequence[Spoken]) -> dict[str, tuple[str, float, float]]:
    """A WAV of all that a speaker says, and where each utterance lies: recording, start and end in seconds."""
    places = {}
    for speaker in sorted({utterance.speaker for utterance in spoken}):
        parts, position = [], 0
        for utterance in (u for u in spoken if u.speaker == speaker):
            start, end = position + GAP_SAMPLES, position + GAP_SAMPLES + len(utterance.samples)
            parts += [np.zeros(GAP_SAMPLES, np.int16), utterance.samples]
            rate_hz, position = utterance.rate_hz, end
            places[utterance.id] = f"rec-{speaker}", round(start / rate_hz, 5), round(end / rate_hz, 5)
        parts.append(np.zeros(GAP_SAMPLES, np.int16))
        soundfile.write(folder / f"rec-{speaker}.wav", np.concatenate(parts), rate_hz, subtype="PCM_16")
    return places


def kaldi(folder: Path, spoken: Sequence[Spoken]) -> Path:
    places = recordings(folder, spoken)
    names = sorted({recording for recording, _, _ in places.values()})
    (folder / "wav.scp").write_text(lines(*(f"{name} {name}.wav" for name in names)))
    (folder / "segments").write_text(lines(*(f"{key} {' '.join(map(str, place))}" for key, place in places.items())))
    (folder / "text").write_text(lines(*(f"{u.id} {u.text}" for u in spoken)))
    (folder / "utt2spk").write_text(lines(*(f"{u.id} {u.speaker}" for u in spoken)))
    return folder


def kaldi_files(folder: Path, spoken: Sequence[Spoken]) -> Path:
    names = flac_files(folder, spoken)
    (folder / "wav.scp").write_text(lines(*(f"{key} {name}" for key, name in names.items())))
    (folder / "text").write_text(lines(*(f"{u.id} {u.text}" for u in spoken)))
    return folder


def huggingface(folder: Path, spoken: Sequence[Spoken]) -> Path:
    rows = [
        {"audio": {"bytes": u.audio, "path": f"{u.id}.flac"}, "text": u.text, "id": u.id, "speaker_id": int(u.speaker)}
        for u in spoken
    ]
    (folder / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "train-00000-of-00001.parquet", row_group_size=2)
    return folder


def cut(utterance: Spoken, path: str, start_s: float, duration_s: float) -> dict[str, Any]:
    """A line of Lhotse's."""
    recording = {"id": path, "sources": [{"type": "file", "channels": [0], "source": path}]}
    supervision = {"id": utterance.id, "start": 0.0, "duration": duration_s, "text": utterance.text}
    return {
        "id": f"cut-{utterance.id}", "start": start_s, "duration": duration_s, "channel": 0, "type": "MonoCut",
        "recording": recording, "supervisions": [supervision | {"speaker": utterance.speaker}],
    }  # fmt: skip


def lhotse(folder: Path, spoken: Sequence[Spoken]) -> Path:
    names = flac_files(folder, spoken)
    cuts = lines(*(cut(u, names[u.id], 0.0, u.duration_s) for u in spoken))
    (folder / "cuts.jsonl.gz").write_bytes(gzip.compress(cuts.encode()))
    return folder


def lhotse_pieces(folder: Path, spoken: Sequence[Spoken]) -> Path:
    places = recordings(folder, spoken)
    rows = []
    for utterance in spoken:
        recording, start_s, end_s = places[utterance.id]
        rows.append(cut(utterance, f"{recording}.wav", start_s, end_s - start_s))
    (folder / "cuts.jsonl").write_text(lines(*rows))
    return folder / "cuts.jsonl"


def webdataset(folder: Path, spoken: Sequence[Spoken], suffix: str = ".tar") -> Path:
    for shard in (0, 1):
        members = []
        for utterance in spoken[shard::2]:
            row = {"speaker": utterance.speaker, "text": utterance.text}
            members += [(f"{utterance.id}.flac", utterance.audio), (f"{utterance.id}.json", json.dumps(row).encode())]
        write_tar(folder / f"shard-{shard:06d}{suffix}", members)
    return folder


def webdataset_gzipped(folder: Path, spoken: Sequence[Spoken]) -> Path:
    return webdataset(folder, spoken, ".tar.gz")


def csv_table(folder: Path, spoken: Sequence[Spoken]) -> Path:
    names = flac_files(folder, spoken)
    rows = [f"{names[u.id]},{len(u.audio)},{u.text.lower()}" for u in spoken]
    (folder / "train.csv").write_text(lines("wav_filename,wav_filesize,transcript", *rows))
    return folder / "train.csv"


def common_voice(folder: Path, spoken: Sequence[Spoken]) -> Path:
    (folder / "clips").mkdir()
    rows = []
    for utterance in spoken:
        (folder / "clips" / f"{utterance.id}.flac").write_bytes(utterance.audio)
        rows.append(f"{utterance.speaker}\t{utterance.id}.flac\t{utterance.text}\t")
    (folder / "train.tsv").write_text(lines("client_id\tpath\tsentence\tage", *rows))
    return folder


FORMATS: Mapping[str, Foreign] = {
    "librispeech-tar": Foreign("librispeech", librispeech_tar),
    "jsonl": Foreign("jsonl", jsonl),
    "nvidia": Foreign("nvidia", nvidia, same_bytes=False, where={"speed": "1"}),
    "nemo": Foreign("nemo", nemo),
    "nemo-tarred": Foreign("nemo", nemo_tarred, has_speakers=False),
    "kaldi-segments": Foreign("kaldi", kaldi, same_bytes=False),
    "kaldi-files": Foreign("kaldi", kaldi_files, has_speakers=False),
    "huggingface": Foreign("huggingface", huggingface),
    "lhotse": Foreign("lhotse", lhotse),
    "lhotse-pieces": Foreign("lhotse", lhotse_pieces, same_bytes=False),
    "webdataset": Foreign("webdataset", webdataset),
    "webdataset-gzipped": Foreign("webdataset", webdataset_gzipped),
    "csv": Foreign("table", csv_table, has_speakers=False),
    "common-voice": Foreign("table", common_voice),
}
