"""Words with times to segments, SRT and WebVTT."""

from collections.abc import Sequence
from dataclasses import dataclass

from jasper_ray.decoding.alignment import WordSpan

PAUSE_S = 0.6
"""A silence this long between two words ends a segment."""
MAX_SEGMENT_S = 7.0
"""Longest time that a subtitle stays; a single word may be longer."""
MAX_CHARACTERS = 84
"""Two lines of 42, as broadcasters have them."""


@dataclass(frozen=True)
class Segment:
    """Words that are shown together."""

    words: tuple[WordSpan, ...]

    @property
    def text(self) -> str:
        """The words in one line."""
        return " ".join(word.word for word in self.words)

    @property
    def start_s(self) -> float:
        """Beginning of the first word."""
        return self.words[0].start_s

    @property
    def end_s(self) -> float:
        """End of the last word."""
        return self.words[-1].end_s

    @property
    def confidence(self) -> float:
        """Mean of its words."""
        return sum(word.confidence for word in self.words) / len(self.words)


def segments_of(words: Sequence[WordSpan]) -> list[Segment]:
    """Words cut at pauses, and where a segment would last too long or hold too many characters."""
    groups: list[list[WordSpan]] = []
    for word in words:
        if groups and _joins(groups[-1], word):
            groups[-1].append(word)
        else:
            groups.append([word])
    return [Segment(tuple(group)) for group in groups]


def _joins(group: list[WordSpan], word: WordSpan) -> bool:
    characters = sum(len(one.word) + 1 for one in group) + len(word.word)
    return (
        word.start_s - group[-1].end_s < PAUSE_S
        and word.end_s - group[0].start_s <= MAX_SEGMENT_S
        and characters <= MAX_CHARACTERS
    )


def srt(segments: Sequence[Segment]) -> str:
    """SubRip: numbered segments, comma before the milliseconds."""
    blocks = (
        f"{number}\n{_clock(one.start_s, ',')} --> {_clock(one.end_s, ',')}\n{one.text}\n"
        for number, one in enumerate(segments, start=1)
    )
    return "\n".join(blocks) + "\n"


def vtt(segments: Sequence[Segment]) -> str:
    """WebVTT: a header, point before the milliseconds."""
    blocks = (f"{_clock(one.start_s, '.')} --> {_clock(one.end_s, '.')}\n{one.text}\n" for one in segments)
    return "\n".join(["WEBVTT\n", *blocks]) + "\n"


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"
