"""The report of an evaluation: figures, and what there is to hear and see of the worst utterances."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jasper_ray.audio.decode import audio_info, decode_audio
from jasper_ray.audio.loudness import envelope, estimated_snr_db
from jasper_ray.config.data import DataConfig
from jasper_ray.data.manifest import Manifest
from jasper_ray.data.shards import ShardReader
from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.decoding.confidence import Calibration
from jasper_ray.errors import AudioError, DataError
from jasper_ray.observe.evaluation_page import Clip, evaluation_page
from jasper_ray.observe.evaluation_report import EvaluationReport, Judged, evaluation_report
from jasper_ray.storage import object_store
from jasper_ray.storage.shard_cache import ShardCache

REPORT_FILE, REPORT_PAGE = "report.json", "report.html"
WAVE_POINTS = 360
MEDIA_TYPES = {"FLAC": "audio/flac", "WAV": "audio/wav", "OGG": "audio/ogg", "MP3": "audio/mpeg", "MPEG": "audio/mpeg"}


def write_report(
    output: str,
    *,
    manifest: Manifest,
    transcripts: Mapping[int, str],
    words: Mapping[int, Sequence[WordSpan]],
    calibration: Calibration | None,
    title: str,
    compare: str | None,
    with_audio: bool,
) -> EvaluationReport:
    """Write `report.json` and `report.html` into a folder, local or on a store.

    Args:
        output: The folder.
        manifest: What was evaluated.
        transcripts: By row of the manifest.
        words: The same with times and confidences.
        calibration: Of their confidences and times, if the bundle has one.
        title: Above the report.
        compare: Predictions of another recogniser, as `jobs.evaluate --predictions` writes them.
        with_audio: Whether the worst utterances can be heard in the page.

    Raises:
        DataError: The other predictions cannot be read or are of other utterances.
    """
    audio = _Audio(manifest)
    judged = Judged(
        ids=manifest.ids,
        references=manifest.texts,
        hypotheses=[transcripts[row] for row in range(len(manifest))],
        speakers=manifest.speakers,
        durations_s=manifest.durations_s,
        datasets=[manifest.shards[shard].rpartition("/shards/")[0] for shard in manifest.shard_index],
        snr_db=audio.snr_db(),
        words=[words[row] for row in range(len(manifest))],
        calibration=calibration,
    )
    other = read_predictions(compare) if compare else None
    try:
        report = evaluation_report(judged, title=title, other=other, other_name=compare or "")
    except ValueError as error:
        raise DataError(str(error)) from error
    rows_by_id = {name: row for row, name in enumerate(manifest.ids)}
    worst = [rows_by_id[item.id] for item in report.worst]
    applied = calibration or Calibration()
    shown = {row: applied.apply(words[row], end_s=float(manifest.durations_s[row])) for row in worst}
    clips = {manifest.ids[row]: _clip(audio, row, shown[row], with_audio) for row in worst}
    object_store.write_bytes(object_store.join(output, REPORT_FILE), report.json())
    object_store.write_bytes(object_store.join(output, REPORT_PAGE), evaluation_page(report, clips).encode())
    return report


def read_predictions(path: str) -> dict[str, str]:
    """Transcripts by utterance id from a file of `jobs.evaluate --predictions`.

    Raises:
        DataError: A line is not one; names it.
    """
    found = {}
    for number, line in enumerate(object_store.read_bytes(path).decode("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            found[str(row["id"])] = str(row["hypothesis"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {number}: not a prediction ({error!r}): it must be JSON with id and hypothesis, as "
                "jobs.evaluate --predictions writes it"
            ) from error
    return found


class _Audio:
    """Recordings of a manifest's utterances."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        data = DataConfig()
        self._cache = ShardCache(Path(data.cache_dir).expanduser(), int(data.cache_max_gb * 1e9))
        self._open: tuple[int, ShardReader] | None = None

    def encoded(self, row: int) -> bytes:
        shard = int(self._manifest.shard_index[row])
        if self._open is None or self._open[0] != shard:
            uri = self._manifest.shards[shard]
            self._open = shard, ShardReader(self._cache.fetch(uri, checksum=self._manifest.checksum(shard)))
        return bytes(self._open[1].audio(int(self._manifest.rows[row])))

    def waveform(self, row: int) -> np.ndarray:
        return decode_audio(self.encoded(row), sample_rate_hz=int(self._manifest.sample_rates_hz[row]))

    def snr_db(self) -> np.ndarray:
        """Of every utterance; 0 where a recording cannot be read."""
        found = np.zeros(len(self._manifest))
        for row in np.argsort(self._manifest.shard_index, kind="stable").tolist():
            try:
                rate_hz = int(self._manifest.sample_rates_hz[row])
                found[row] = estimated_snr_db(self.waveform(row), sample_rate_hz=rate_hz)
            except AudioError:
                continue
        return found


def _clip(audio: _Audio, row: int, words: Sequence[WordSpan], with_audio: bool) -> Clip:
    encoded = audio.encoded(row)
    return Clip(
        envelope(audio.waveform(row), WAVE_POINTS),
        words,
        encoded if with_audio else b"",
        MEDIA_TYPES.get(audio_info(encoded).container, "application/octet-stream"),
    )
