"""Whatever format the same speech comes in, the same dataset comes out."""

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from foreign_formats import FORMATS, Spoken, librispeech

from jasper_ray.config.data import CorpusConfig
from jasper_ray.config.speech import ENGLISH_ALPHABET
from jasper_ray.data.manifest import read_manifest
from jasper_ray.data.preparation import prepare_dataset
from jasper_ray.data.readers import registry
from jasper_ray.data.readers.librispeech import read_librispeech
from jasper_ray.data.shards import ShardReader
from jasper_ray.storage import object_store


@dataclass(frozen=True)
class Row:
    """What a dataset says of an utterance."""

    text: str
    speaker: str
    num_samples: int
    sample_rate_hz: int
    duration_s: float
    audio: bytes

    @property
    def samples(self) -> np.ndarray:
        return soundfile.read(io.BytesIO(self.audio), dtype="int16")[0]


def generated() -> list[Spoken]:
    random = np.random.default_rng(0)
    spoken = []
    for number, name in enumerate(("103-1240-0000", "103-1240-0001", "103-1241-0000", "84-121550-0000", "84-2-0007")):
        file = io.BytesIO()
        noise = random.normal(scale=0.1, size=16_000 + 777 * number)
        soundfile.write(file, noise, 16_000, format="FLAC", subtype="PCM_16")
        spoken.append(Spoken(name, f"IT'S NUMBER {'ABCDE'[number]}", name.split("-")[0], file.getvalue()))
    return spoken


def recorded(speech_data: Path) -> list[Spoken]:
    """Three utterances each of two readers, and one of another subset."""
    spoken = []
    for subset, num_speakers, num_each in (("test-other", 2, 3), ("dev-clean", 1, 1)):
        utterances = list(read_librispeech(speech_data / "librispeech" / subset))
        for speaker in sorted({utterance.speaker for utterance in utterances})[:num_speakers]:
            of_speaker = [utterance for utterance in utterances if utterance.speaker == speaker][:num_each]
            spoken += [Spoken(u.id, u.text, u.speaker, u.audio.read()) for u in of_speaker]
    assert len(spoken) == 7
    return spoken


@pytest.fixture(scope="module", params=["generated", "recorded"])
def spoken(request: pytest.FixtureRequest) -> list[Spoken]:
    return generated() if request.param == "generated" else recorded(request.getfixturevalue("speech_data"))


@pytest.fixture(scope="module")
def expected(spoken: list[Spoken], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """What LibriSpeech's folders give."""
    folder = tmp_path_factory.mktemp("librispeech")
    return prepare(CorpusConfig(source=str(librispeech(folder / "corpus", spoken))), folder / "dataset")


def prepare(corpus: CorpusConfig, target: Path) -> dict[str, Row]:
    """The dataset by utterance."""
    prepare_dataset([corpus], str(target), alphabet=ENGLISH_ALPHABET, strict=True)
    manifest = read_manifest(str(target))
    rows = {}
    for utterance in map(manifest.utterance, range(len(manifest))):
        reader = ShardReader(Path(utterance.shard))
        rows[utterance.id] = Row(
            utterance.text,
            utterance.speaker,
            utterance.num_samples,
            utterance.sample_rate_hz,
            utterance.duration_s,
            bytes(reader.audio(utterance.row)),
        )
    return rows


def write(name: str, folder: Path, spoken: Sequence[Spoken]) -> CorpusConfig:
    """The corpus in a format, to be told by its content."""
    folder.mkdir()
    source = FORMATS[name].write(folder, spoken)
    assert registry.detect_format(source) == FORMATS[name].format
    return CorpusConfig(source=str(source), where=FORMATS[name].where or {})


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_speech_in_another_format_gives_the_same_dataset(
    tmp_path: Path, spoken: list[Spoken], expected: dict[str, Row], name: str
) -> None:
    found = prepare(write(name, tmp_path / "corpus", spoken), tmp_path / "dataset")
    assert found.keys() == expected.keys()
    for utterance_id, row in found.items():
        other = expected[utterance_id]
        assert (row.text, row.num_samples, row.sample_rate_hz) == (other.text, other.num_samples, other.sample_rate_hz)
        assert row.duration_s == other.duration_s
        assert row.speaker == (other.speaker if FORMATS[name].has_speakers else "")
        assert np.array_equal(row.samples, other.samples)
        assert row.audio == other.audio or not FORMATS[name].same_bytes


@pytest.mark.parametrize("name", [*FORMATS, "librispeech"])
def test_a_corpus_in_a_bucket_gives_the_same_dataset(
    tmp_path: Path, spoken: list[Spoken], expected: dict[str, Row], name: str, s3_bucket: str
) -> None:
    """Its references travel to other processes, as they do on a cluster."""
    if name == "librispeech":
        corpus = CorpusConfig(source=str(librispeech(tmp_path / "corpus", spoken)))
    else:
        corpus = write(name, tmp_path / "corpus", spoken)
    target = object_store.join(s3_bucket, tmp_path.name)
    for file in object_store.list_files(str(tmp_path / "corpus")):
        object_store.upload_file(tmp_path / "corpus" / file, object_store.join(target, "corpus", file))
    remote = corpus.source.replace(str(tmp_path), target)
    assert remote.startswith("s3://")
    (tmp_path / "corpus").rename(tmp_path / "away")
    listed = list(registry.read_corpus(corpus.model_copy(update={"source": remote})))
    listed = pickle.loads(pickle.dumps(listed))
    assert {u.id for u in listed} == set(expected)
    for utterance in listed:
        audio, _ = soundfile.read(io.BytesIO(utterance.audio.read()), dtype="int16")
        assert np.array_equal(audio, expected[utterance.id].samples)
        assert utterance.text.lower() == expected[utterance.id].text


def test_the_expectation_is_what_was_spoken(spoken: list[Spoken], expected: dict[str, Row]) -> None:
    assert {name: (row.text, row.speaker, row.audio) for name, row in expected.items()} == {
        u.id: (u.text.lower(), u.speaker, u.audio) for u in spoken
    }


def test_nvidias_manifest_gives_every_speed(tmp_path: Path, spoken: list[Spoken], expected: dict[str, Row]) -> None:
    corpus = write("nvidia", tmp_path / "corpus", spoken).model_copy(update={"where": {}})
    found = prepare(corpus, tmp_path / "dataset")
    assert found.keys() == {f"{name}{speed}" for name in expected for speed in ("", "-0.9", "-1.1")}
    for name, row in expected.items():
        for speed in (0.9, 1.1):
            variant = found[f"{name}-{speed}"]
            assert (variant.text, variant.speaker) == (row.text, row.speaker)
            assert variant.num_samples == pytest.approx(row.num_samples / speed, abs=1)


@pytest.mark.parametrize("name", [*FORMATS, "librispeech"])
def test_listing_reads_no_audio(
    tmp_path: Path, spoken: list[Spoken], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """References are small, and pickle; what they give later is what was spoken."""
    if name == "librispeech":
        corpus = CorpusConfig(source=str(librispeech(tmp_path / "corpus", spoken)))
    else:
        corpus = write(name, tmp_path / "corpus", spoken)
    opened: list[str] = []
    path_open = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *args, **more: opened.append(self.name) or path_open(self, *args, **more)
    )
    listed = list(registry.read_corpus(corpus))
    assert len(listed) == len(spoken) and all(u.audio.num_bytes > 0 for u in listed)
    assert not [file for file in opened if file.endswith((".flac", ".wav"))]
