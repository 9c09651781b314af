"""What a dataset holds and what was left out of it, as figures: `report.json` beside the manifest.

It says nothing of when, where and how fast it was prepared, so that the same corpus gives the same file.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from jasper_ray.config.data import CorpusConfig, PreparationConfig
from jasper_ray.data.shard_task import ShardRecord
from jasper_ray.data.usability import Rejection, count_by_kind

REPORT_FILE, REPORT_PAGE = "report.json", "report.html"
MAX_BINS = 40
BIN_STEPS_S = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)


@dataclass(frozen=True)
class CorpusReport:
    """Figures of a dataset."""

    sources: list[dict[str, Any]]
    alphabet: str
    options: dict[str, Any]
    num_utterances: int
    num_words: int
    num_characters: int
    hours: float
    num_shards: int
    speaker_hours: dict[str, float]
    """By falling hours."""
    bin_edges_s: list[float]
    bin_counts: list[int]
    """Utterances whose duration lies from one edge to the next; the last bin has its upper edge too."""
    duration_quantiles_s: dict[str, float]
    characters: dict[str, int]
    """How often each character of the alphabet occurs."""
    containers: dict[str, int]
    channels: dict[str, int]
    sample_rates_hz: dict[str, int]
    rejected: list[Rejection]

    @property
    def rejected_by_kind(self) -> list[tuple[str, int]]:
        """Groups of reasons with their numbers, the largest first."""
        return count_by_kind(self.rejected)

    def json(self) -> bytes:
        """The report as a JSON file."""
        return (json.dumps({**asdict(self), "rejected_by_kind": dict(self.rejected_by_kind)}, indent=1) + "\n").encode()


def corpus_report(
    rows: pa.Table,
    records: Sequence[ShardRecord],
    *,
    corpora: Sequence[CorpusConfig],
    alphabet: str,
    config: PreparationConfig,
) -> CorpusReport:
    """Figures of the manifest's rows and the shards' records."""
    durations_s = rows["duration_s"].to_numpy()
    texts: list[str] = rows["text"].to_pylist()
    characters: Counter[str] = Counter()
    for text in texts:
        characters.update(text)
    edges_s = _bin_edges(float(durations_s.max()))
    return CorpusReport(
        sources=[{"source": c.source, "format": c.format, "where": dict(c.where)} for c in corpora],
        alphabet=alphabet,
        options=config.model_dump(mode="json"),
        num_utterances=rows.num_rows,
        num_words=sum(len(text.split()) for text in texts),
        num_characters=sum(characters.values()),
        hours=float(durations_s.sum()) / 3600,
        num_shards=sum(bool(record.checksum) for record in records),
        speaker_hours=_speaker_hours(rows["speaker"].to_pylist(), durations_s),
        bin_edges_s=edges_s,
        bin_counts=np.histogram(durations_s, bins=edges_s)[0].tolist(),
        duration_quantiles_s={
            name: float(np.quantile(durations_s, share))
            for name, share in (("min", 0), ("p05", 0.05), ("median", 0.5), ("p95", 0.95), ("max", 1))
        },
        characters={label: characters[label] for label in alphabet},
        containers=_summed(record.containers for record in records),
        channels=_summed(record.channels for record in records),
        sample_rates_hz=_summed([Counter(str(rate) for rate in rows["sample_rate_hz"].to_pylist())]),
        rejected=[rejection for record in records for rejection in record.rejections],
    )


def _bin_edges(longest_s: float) -> list[float]:
    """From 0 in steps of a round number of seconds, at most `MAX_BINS` unless the longest is beyond all reason."""
    step_s = next((step for step in BIN_STEPS_S if longest_s <= step * MAX_BINS), longest_s / MAX_BINS)
    num_bins = max(1, int(np.ceil(longest_s / step_s)))
    return [round(step_s * number, 6) for number in range(num_bins)] + [max(step_s * num_bins, longest_s)]


def _speaker_hours(speakers: list[str], durations_s: np.ndarray) -> dict[str, float]:
    seconds: defaultdict[str, float] = defaultdict(float)
    for speaker, duration_s in zip(speakers, durations_s.tolist(), strict=True):
        seconds[speaker] += duration_s
    return {name: total / 3600 for name, total in sorted(seconds.items(), key=lambda pair: (-pair[1], pair[0]))}


def _summed(counts: Any) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        mapping: Mapping[str, int] = one
        total.update(mapping)
    return dict(sorted(total.items(), key=lambda pair: (-pair[1], pair[0])))
