from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from jasper_ray.data.espeak import WordBegin
from jasper_ray.data.spoken_words import _begins, _sounding, speak_texts, spoken_texts
from jasper_ray.data.synthetic import voices
from jasper_ray.decoding.alignment import WordSpan
from jobs.benchmarks.evaluation_report import measure_report
from jobs.benchmarks.word_times import _errors


def test_words_sound_where_the_truth_says_one_after_the_other() -> None:
    pytest.importorskip("espeakng_loader", reason="the extra [demo] is not installed")
    said = spoken_texts(4, "evaluation", digits=False)
    spoken = list(speak_texts(said, voices("evaluation"), rate_hz=16000))
    assert [one.text for one in spoken] == said
    for one in spoken:
        assert len(one.edges_s) == len(one.text.split())
        before_s = 0.0
        for start_s, end_s in one.edges_s:
            assert before_s <= start_s < end_s <= len(one.waveform) / 16000 + 1e-3
            word = np.abs(one.waveform[round(start_s * 16000) : round(end_s * 16000)])
            assert word.max() > 0.05 * np.abs(one.waveform).max() and end_s - start_s > 0.04
            before_s = end_s
        # All that sounds is in some word.
        quiet = np.ones(len(one.waveform), dtype=bool)
        for start_s, end_s in one.edges_s:
            quiet[max(0, round(start_s * 16000) - 16) : round(end_s * 16000) + 16] = False
        assert np.abs(one.waveform[quiet]).max(initial=0) < 0.04 * np.abs(one.waveform).max()


def test_texts_whose_words_are_taken_together_are_left_out() -> None:
    assert _begins("to be", [WordBegin(0, 5), WordBegin(3, 70)]) == [5, 70]
    assert _begins("to be", [WordBegin(0, 5)]) == []
    samples = np.array([0, 0, 900, 1000, 0, 0, -800, 0], dtype=np.int16)
    assert _sounding(samples, [0, 4]) == [(2, 4), (6, 7)]
    assert _sounding(samples, []) is None
    assert _sounding(samples, [0, 4, 7]) is None


def test_errors_are_signed_distances_of_both_edges() -> None:
    (joined,) = (one for one in [Namespace(edges_s=((0.5, 1.0), (1.2, 1.5)))])
    found = [WordSpan("one", 0.52, 0.9, 1.0), WordSpan("two", 1.2, 1.6, 1.0)]
    errors_s = _errors(joined, found)  # type: ignore[arg-type]
    assert [error_s for pair in errors_s for error_s in pair] == pytest.approx([0.02, -0.1, 0.0, 0.1])


def test_a_report_of_invented_utterances_is_measured_and_kept(tmp_path: Path) -> None:
    figures = measure_report(Namespace(utterances=60, write=tmp_path), lambda line: None)
    assert figures["utterances"] == 60 and 0.05 < figures["wer"] < 0.3
    assert figures["page_mb"] * 1e6 == len((tmp_path / "report.html").read_bytes())
    assert "Confidence of words" in (tmp_path / "report.html").read_text()
