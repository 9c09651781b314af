import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("espeakng_loader", reason="the extra [demo] is not installed")

from jasper_ray.data.synthetic import DIGITS, EVALUATION_VARIANTS, TRAIN_VARIANTS, read_synthetic, transcript, voices
from jasper_ray.errors import DataError


def test_no_evaluation_voice_has_a_timbre_of_training() -> None:
    assert not set(TRAIN_VARIANTS) & set(EVALUATION_VARIANTS)
    unstable = {"Alicia", "Demonic", "f2", "f3", "f5", "sandro", "victor", "whisper", "whisperf"}
    assert not unstable & {*TRAIN_VARIANTS, *EVALUATION_VARIANTS}
    train, evaluation = voices("train"), voices("evaluation")
    assert len({voice.name for voice in train}) >= 120
    assert len({(v.espeak_name, v.pitch, v.range, v.rate) for v in train}) >= 120
    assert not {v.espeak_name for v in train} & {v.espeak_name for v in evaluation}


def test_two_runs_give_the_same_bytes() -> None:
    digests = [
        [
            (u.id, u.text, u.speaker, hashlib.sha256(u.audio.read()).hexdigest())
            for u in read_synthetic("digits-and-commands:30")
        ]
        for _ in range(2)
    ]
    assert digests[0] == digests[1] and len(digests[0]) == 34


def test_an_utterance_is_audible_speech_at_16_khz() -> None:
    for utterance in read_synthetic("digits-and-commands:10", ["evaluation"]):
        samples, rate_hz = soundfile.read(io.BytesIO(utterance.audio.read()))
        assert rate_hz == 16000 and utterance.fields["split"] == "evaluation"
        assert len(samples) > 0.15 * rate_hz and np.abs(samples).max() > 0.05


def test_texts_are_digits_and_commands_in_turn() -> None:
    digits = [set(transcript("train", number).split()) <= set(DIGITS) for number in range(1500)]
    assert digits == [True, False] * 750
    words = {word for number in range(1500) for word in transcript("train", number).split()}
    assert 50 <= len(words) <= 80
    assert {word for number in range(180) for word in transcript("evaluation", number).split()} <= words


def test_voices_of_training_read_any_text_in_pieces(tmp_path: Path) -> None:
    text = tmp_path / "book.txt"
    text.write_text(" ".join(f"word{n}" for n in "abcdefghijklmno") + "\nthe end of it\nnever read\n")
    spoken = list(read_synthetic(f"text:{text}:3"))
    assert [len(utterance.text.split()) for utterance in spoken] == [10, 5, 4]
    assert spoken[2].text == "the end of it" and spoken[0].fields["split"] == "train"
    assert [u.audio.read() for u in spoken] == [u.audio.read() for u in read_synthetic(f"text:{text}:3")]
    with pytest.raises(DataError, match="text:FILE:COUNT"):
        list(read_synthetic(f"text:{text}"))


def test_another_name_is_refused() -> None:
    with pytest.raises(DataError, match=r"no embedded corpus 'x': write digits-and-commands"):
        list(read_synthetic("x"))
