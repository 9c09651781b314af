"""The embedded corpus: connected digits and short commands, spoken by eSpeak NG in voices of many kinds.

Everything follows from the number of an utterance, so the same corpus comes out on every machine. Voices for
evaluation use timbres (eSpeak's variants) that no training voice uses. The same voices also read any text: more speech
to learn from beside little that is real.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

from jasper_ray.data.espeak import Espeak
from jasper_ray.data.readers.corpus import AudioBytes, CorpusUtterance
from jasper_ray.errors import DataError
from jasper_ray.storage import object_store

NAME, TEXT = "digits-and-commands", "text:"
NUM_TRAIN, NUM_EVALUATION = 1500, 180
NUM_TRAIN_VOICES, NUM_EVALUATION_VOICES = 300, 24
SAMPLE_RATE_HZ = 16000
SEED = 20190412
WORDS_READ = 10
"""Longest piece of a text that is one utterance: a model learns from short ones first."""

ACCENTS = ("en-us", "en", "en-029", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-x-rp", "en-us-nyc")
# Variants that sound like people. Not here: whispers, robots, and the nine (Alicia, Demonic, f2, f3, f5, sandro,
# victor, whisper, whisperf) whose breath is random, so that two runs would differ.
TRAIN_VARIANTS = (
    "Alex", "Andrea", "Andy", "Denis", "Diogo", "Gene", "Hugo", "Jacky", "Lee", "Marco", "Mario", "Michael", "Mike",
    "Reed", "adam", "anika", "antonio", "aunty", "belinda", "benjamin", "boris", "caleb", "david", "ed", "edward", "f1",
    "gustave", "ian", "iven", "iven3", "john", "klatt2", "klatt4", "m1", "m3", "m5", "m7", "marcelo", "max", "michel",
    "norbert", "pablo", "paul", "quincy", "rob", "shelby", "steph", "steph3", "travis", "zac",
)  # fmt: skip
# Of both sexes, and adult: the training variants reach further (zac is a child) than what is asked of the model here.
EVALUATION_VARIANTS = (
    "Annie", "Henrique", "announcer", "f4", "linda", "m2", "m4", "m6", "m8", "miguel", "pedro", "robert",
)  # fmt: skip

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ROOMS = ("kitchen", "bedroom", "garden")
COMMANDS = (
    *(f"turn {state} the {room} light" for state in ("on", "off") for room in ROOMS),
    *(f"{verb} the {thing}" for verb in ("open", "close", "lock") for thing in ("window", "front door", "garage")),
    *(f"set the {what} to {digit}" for what in ("volume", "timer", "heater") for digit in DIGITS),
    *(f"play {what} music" for what in ("quiet", "loud", "some", "my favourite")),
    *(f"call my {who}" for who in ("mother", "father", "sister", "brother", "office")),
    *(f"wake me up at {digit}" for digit in DIGITS[5:]),
    *(f"what is the {what} today" for what in ("weather", "news", "date")),
    "stop the music", "pause the music", "next song please", "go back", "start again", "good morning", "good night",
)  # fmt: skip


@dataclass(frozen=True)
class Voice:
    """A speaker of the corpus."""

    name: str
    espeak_name: str
    pitch: int
    range: int
    rate: int
    """Words per minute."""


def voices(split: str) -> list[Voice]:
    """The voices of a split; each of its variants comes with several accents, pitches and rates."""
    variants = TRAIN_VARIANTS if split == "train" else EVALUATION_VARIANTS
    count = NUM_TRAIN_VOICES if split == "train" else NUM_EVALUATION_VOICES
    found = []
    for number in range(count):
        rng = np.random.default_rng([SEED, len(variants), number])
        variant, accent = variants[number % len(variants)], ACCENTS[int(rng.integers(len(ACCENTS)))]
        pitch, spread, rate = int(rng.integers(20, 80)), int(rng.integers(30, 70)), int(rng.integers(140, 210))
        found.append(Voice(f"{split}-{number:03d}-{accent}-{variant}", f"{accent}+{variant}", pitch, spread, rate))
    return found


def transcript(split: str, number: int) -> str:
    """What is said in an utterance: in turn one to six digits and a command."""
    rng = np.random.default_rng([SEED, 7, int(split == "train"), number])
    if number % 2:
        return COMMANDS[int(rng.integers(len(COMMANDS)))]
    return " ".join(rng.choice(DIGITS, size=rng.integers(1, 7)).tolist())


def read_synthetic(source: str, splits: Sequence[str] = ("train", "evaluation")) -> Iterator[CorpusUtterance]:
    """Utterances of the splits.

    Args:
        source: `digits-and-commands`, or `digits-and-commands:300` for so many training utterances; `text:FILE:1000`
            reads the first pieces of a text, with training voices only.
        splits: `train`, `evaluation` or both.

    Raises:
        DataError: Another name, or eSpeak NG is not installed.
    """
    if source.startswith(TEXT):
        if "train" in splits:
            with Espeak() as espeak:
                yield from _speak(espeak, "train", _pieces(source.removeprefix(TEXT)), voices("train"))
        return
    num_train = _num_train(source)
    num_evaluation = max(1, round(NUM_EVALUATION * num_train / NUM_TRAIN))
    with Espeak() as espeak:
        for split, count in (("train", num_train), ("evaluation", num_evaluation)):
            if split in splits:
                yield from _speak(espeak, split, [transcript(split, n) for n in range(count)], voices(split))


def _num_train(source: str) -> int:
    name, _, count = source.partition(":")
    if name != NAME or (count and not (count.isdigit() and int(count) > 0)):
        raise DataError(f"there is no embedded corpus {source!r}: write {NAME}, or {NAME}:300 for 300 utterances")
    return int(count) if count else NUM_TRAIN


def _pieces(source: str) -> list[str]:
    """Lines of a text file cut into pieces of `WORDS_READ` words, as many as `FILE:COUNT` asks for."""
    path, _, count = source.rpartition(":")
    if not count.isdigit():
        raise DataError(f"text to be read is written {TEXT}FILE:COUNT, e.g. {TEXT}book.txt:1000, got {TEXT + source!r}")
    pieces: list[str] = []
    for line in object_store.read_bytes(path).decode("utf-8").splitlines():
        words = line.split()
        starts = range(0, len(words), WORDS_READ)
        pieces += [" ".join(words[start : start + WORDS_READ]) for start in starts]
        if len(pieces) >= int(count):
            break
    return pieces[: int(count)]


def _speak(espeak: Espeak, split: str, texts: Sequence[str], speakers: Sequence[Voice]) -> Iterator[CorpusUtterance]:
    # Seven shares no factor with the number of voices: each of them says commands as well as digits.
    said = [(text, speakers[number * 7 % len(speakers)]) for number, text in enumerate(texts)]
    requests = [
        {"text": text, "voice": voice.espeak_name, "pitch": voice.pitch, "range": voice.range, "rate": voice.rate}
        for text, voice in said
    ]
    for number, ((text, voice), samples) in enumerate(zip(said, espeak.speak_all(requests), strict=True)):
        name = f"{split}-{number:05d}"
        fields = {"split": split, "voice": voice.name}
        audio = AudioBytes(encode_flac(samples, espeak.sample_rate_hz))
        yield CorpusUtterance(name, audio, f"{name}.flac", text, voice.name, fields)


def encode_flac(samples: np.ndarray, sample_rate_hz: int) -> bytes:
    """Samples `(N,)` int16 as a 16 kHz FLAC file."""
    resampled = soxr.resample(samples, sample_rate_hz, SAMPLE_RATE_HZ, quality="HQ")
    buffer = io.BytesIO()
    soundfile.write(buffer, resampled, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
