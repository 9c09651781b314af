from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from jasper_ray.data.joined_words import joined_words, spoken_texts
from jasper_ray.data.synthetic import voices
from jasper_ray.decoding.alignment import WordSpan
from jobs.benchmarks.evaluation_report import measure_report
from jobs.benchmarks.word_times import _errors


def test_words_sound_where_the_truth_says_and_nowhere_else() -> None:
    pytest.importorskip("espeakng_loader", reason="the extra [demo] is not installed")
    said = spoken_texts(2, "evaluation", digits=True)
    for joined in joined_words(said, voices("evaluation"), rate_hz=16000):
        assert len(joined.edges_s) == len(joined.text.split())
        quiet = np.ones(len(joined.waveform), dtype=bool)
        for start_s, end_s in joined.edges_s:
            word = np.abs(joined.waveform[round(start_s * 16000) : round(end_s * 16000)])
            quiet[round(start_s * 16000) - 1 : round(end_s * 16000) + 1] = False
            assert word[:20].max() > 0.005 * word.max() and word[-20:].max() > 0.005 * word.max()
        assert np.abs(joined.waveform[quiet]).max() < 1e-3


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
