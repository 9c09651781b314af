import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jasper_ray.config.data import CorpusConfig, PreparationConfig
from jasper_ray.config.speech import ENGLISH_ALPHABET
from jasper_ray.data.manifest import read_manifest
from jasper_ray.data.preparation import PreparationReport, prepare_dataset
from jasper_ray.data.shards import ShardReader
from jasper_ray.errors import DataError
from jasper_ray.storage import object_store
from jasper_ray.storage.shard_cache import ShardCache


def wav(seconds: float, rate_hz: int = 16000, channels: int = 1, silent: bool = False) -> bytes:
    shape = (int(seconds * rate_hz), channels)
    samples = np.zeros(shape) if silent else np.random.default_rng(0).normal(scale=0.1, size=shape)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format="WAV")
    return buffer.getvalue()


def corpus(folder: Path, files: dict[str, tuple[bytes, str]]) -> CorpusConfig:
    folder.mkdir()
    rows = []
    for name, (audio, text) in files.items():
        (folder / f"{name}.wav").write_bytes(audio)
        rows.append({"audio": f"{name}.wav", "text": text, "id": name, "speaker": "s"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return CorpusConfig(source=str(folder))


def prepare(target: Path, *corpora: CorpusConfig, strict: bool = False, shard_bytes: int = 10**9) -> PreparationReport:
    config = PreparationConfig(shard_mb=shard_bytes / 1e6)
    return prepare_dataset(corpora, str(target), alphabet=ENGLISH_ALPHABET, config=config, strict=strict)


GOOD = {"one": (wav(1.0), "Hello, World!"), "two": (wav(0.5, 8000, 2), "It's\u2019 caf\u00e9")}


def test_a_dataset_holds_normalised_texts_exact_lengths_and_the_untouched_audio(tmp_path: Path) -> None:
    report = prepare(tmp_path / "d", corpus(tmp_path / "c", GOOD))
    assert (report.num_utterances, report.num_shards, report.rejections, report.reused) == (2, 1, (), False)
    manifest = read_manifest(str(tmp_path / "d"))
    assert manifest.texts == ["hello world", "it's cafe"]
    assert manifest.num_samples.tolist() == [16000, 4000]
    assert manifest.sample_rates_hz.tolist() == [16000, 8000]
    assert manifest.durations_s.tolist() == [1.0, 0.5]
    assert bytes(ShardReader(Path(manifest.shards[0])).audio(1)) == GOOD["two"][0]


def test_a_dataset_that_is_there_is_left_alone(tmp_path: Path) -> None:
    config = corpus(tmp_path / "c", GOOD)
    prepare(tmp_path / "d", config)
    before = (tmp_path / "d" / "manifest.parquet").stat().st_mtime_ns
    assert prepare(tmp_path / "d", config).reused
    assert (tmp_path / "d" / "manifest.parquet").stat().st_mtime_ns == before


def test_the_same_corpus_gives_the_same_bytes(tmp_path: Path) -> None:
    files = {f"u{n}": (wav(0.1 + n / 100), "a") for n in range(150)}
    config = corpus(tmp_path / "c", files)
    for name in ("d", "e"):
        assert prepare(tmp_path / name, config, shard_bytes=200_000).num_shards > 2
    trees = [{p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in ("d", "e")]
    assert trees[0] == trees[1]


def test_unusable_utterances_are_left_out_with_their_reasons(tmp_path: Path) -> None:
    bad = {
        "text": (b"this is no audio", "x"),
        "cut": (wav(1.0)[:5000], "x"),
        "empty": (wav(0.5), " ... "),
        "digits": (wav(0.5), "route 66"),
        "silent": (wav(0.5, silent=True), "x"),
        "nothing": (wav(0.0), "x"),
    }
    report = prepare(tmp_path / "d", corpus(tmp_path / "c", GOOD | bad))
    reasons = {item.id: item.reason for item in report.rejections}
    assert reasons.keys() == bad.keys()
    assert "truncated" in reasons["cut"] and "empty" in reasons["empty"] and "silence" in reasons["silent"]
    assert "6" in reasons["digits"]
    assert len(read_manifest(str(tmp_path / "d"))) == 2


def flac(seconds: float, rate_hz: int, channels: int) -> bytes:
    samples = np.random.default_rng(0).normal(scale=0.1, size=(int(seconds * rate_hz), channels))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format="FLAC")
    return buffer.getvalue()


def wav_with(sample: float) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full(16000, sample, np.float32), 16000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def wav_that_claims(seconds: int) -> bytes:
    audio = bytearray(wav(1.0))
    audio[40:44] = (seconds * 32000).to_bytes(4, "little")  # the size of its data chunk
    return bytes(audio)


TORTURE = {
    "truncated": (flac(1.0, 16000, 1)[:9000], r"truncated FLAC"),
    "nothing": (b"", r"an empty file"),
    "text": (b"this is no sound at all\n", r"look like text"),
    "tiny": (wav(0.01), r"it lasts 0\.01 s, too short for a transcript of 11 characters"),
    "ten-hours": (wav_that_claims(36000), r"truncated: there are 32044 bytes, its header promises"),
    "nan": (wav_with(float("nan")), r"NaN"),
    "loud": (wav_with(1e30), r"full scale"),
}


def test_every_bad_file_is_left_out_with_its_reason_and_the_good_ones_stay(tmp_path: Path) -> None:
    bad = {name: (audio, "hello world") for name, (audio, _) in TORTURE.items()}
    many_channels = {"studio": (flac(1.0, 192000, 8), "hello world")}  # unusual, but usable
    config = corpus(tmp_path / "c", GOOD | bad | many_channels)
    report = prepare(tmp_path / "d", config)
    assert read_manifest(str(tmp_path / "d")).ids == ["one", "two", "studio"]
    reasons = {item.id: item.reason for item in report.rejections}
    assert reasons.keys() == TORTURE.keys()
    for name, (_, said) in TORTURE.items():
        assert re.search(said, reasons[name]), (name, reasons[name])
    with pytest.raises(DataError, match=r"7 utterances .* cannot be used: truncated: .*nan: "):
        prepare(tmp_path / "strict", config, strict=True)


def test_strict_refuses_unusable_utterances_with_the_list(tmp_path: Path) -> None:
    config = corpus(tmp_path / "c", GOOD | {"bad": (b"no", "x")})
    with pytest.raises(DataError, match=r"1 utterances of .*cannot be used: bad: "):
        prepare(tmp_path / "d", config, strict=True)
    assert not (tmp_path / "d" / "manifest.parquet").exists()


def test_an_id_that_comes_twice_and_an_empty_selection_are_refused(tmp_path: Path) -> None:
    one, other = corpus(tmp_path / "c", GOOD), corpus(tmp_path / "c2", GOOD)
    with pytest.raises(DataError, match="utterance id 'one' comes twice"):
        prepare(tmp_path / "d", one, other)
    with pytest.raises(DataError, match=r"no utterance of .* was selected"):
        prepare(tmp_path / "d", one.model_copy(update={"where": {"speaker": "nobody"}}))


def test_a_dataset_may_lie_on_an_object_store(s3_bucket: str, tmp_path: Path) -> None:
    target = f"{s3_bucket}/{tmp_path.name}/dataset"
    report = prepare_dataset([corpus(tmp_path / "c", GOOD)], target, alphabet=ENGLISH_ALPHABET)
    manifest = read_manifest(target)
    assert report.num_utterances == len(manifest) == 2
    assert manifest.shards == [f"{target}/shards/00000.arrow"]
    reader = ShardReader(ShardCache(tmp_path / "cache", 10**9).fetch(manifest.shards[0]))
    assert [bytes(reader.audio(row)) for row in manifest.rows] == [audio for audio, _ in GOOD.values()]
    assert prepare_dataset([], target, alphabet=ENGLISH_ALPHABET).reused


def test_a_place_in_the_store_and_a_place_on_disk_get_the_same_bytes(s3_bucket: str, tmp_path: Path) -> None:
    config, target = corpus(tmp_path / "c", GOOD), f"{s3_bucket}/{tmp_path.name}/dataset"
    prepare_dataset([config], target, alphabet=ENGLISH_ALPHABET)
    prepare(tmp_path / "d", config, shard_bytes=256_000_000)
    names = object_store.list_files(target)
    assert names == ["manifest.parquet", "report.html", "report.json", "shards/00000.arrow"]
    assert all(object_store.read_bytes(f"{target}/{n}") == (tmp_path / "d" / n).read_bytes() for n in names)


def test_a_wrong_alphabet_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="alphabet must hold each character once"):
        prepare_dataset([CorpusConfig(source="nowhere")], str(tmp_path / "d"), alphabet="aa")
