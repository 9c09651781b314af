"""Cuts a stream of samples into utterances at pauses, by energy alone.

What is cut where is a function of the samples: neither the size of the pieces in which they arrive nor the speed of the
model has a part in it, so a recording that is streamed twice gives the same transcripts twice.
"""

from dataclasses import dataclass

import numpy as np

FRAME_S = 0.02
SPEECH_DB = 10.0
"""Frames so much louder than the quietest ones are speech."""
LOWEST_FLOOR_DB = -65.0
FLOOR_RISE_DB_PER_S = 1.0
"""How fast the background is allowed to become louder."""
MIN_SPEECH_FRAMES = 4
IDLE_S, KEPT_S = 1.0, 0.4
"""So much without any speech is left out, but for its end."""
QUIET_WINDOW_FRAMES = 10
"""A cut where there is no pause goes through the quietest so many frames."""


@dataclass(frozen=True)
class SegmentRules:
    """When a segment ends."""

    pause_s: float | None = 0.8
    """After so long a pause; None: only when it is asked for, and at `max_s`."""
    max_s: float = 30.0
    """At the latest; what is held of a stream is bounded by it."""

    def __post_init__(self) -> None:
        if (self.pause_s is not None and self.pause_s < 0.1) or self.max_s < 1:
            raise ValueError(f"{self}: pause_s must be at least 0.1 or None, max_s at least 1")


@dataclass(frozen=True)
class Segment:
    """A finished piece of the stream."""

    waveform: np.ndarray
    start_s: float
    """From the beginning of the stream."""
    has_speech: bool
    at_pause: bool
    """Cut at a pause; otherwise because it was asked for, or too long."""


class Segmenter:
    """Holds what has come since the last cut.

    Args:
        rate_hz: Rate of the samples.
        rules: When a segment ends.
    """

    def __init__(self, rate_hz: int, rules: SegmentRules) -> None:
        self._rate_hz, self.rules = rate_hz, rules
        self._frame = round(FRAME_S * rate_hz)
        self._floor_db = np.inf
        self._pieces: list[np.ndarray] = []
        self._num_held = 0
        self._start = 0  # of the segment, in samples of the stream
        self._rest = np.zeros(0, np.float32)  # less than a frame, not looked at yet
        self._begin_segment([])

    @property
    def start_s(self) -> float:
        """Where the segment that is open began."""
        return self._start / self._rate_hz

    @property
    def held_s(self) -> float:
        """Length of the segment that is open."""
        return (self._num_held + len(self._rest)) / self._rate_hz

    @property
    def has_speech(self) -> bool:
        """Whether something was said in the segment that is open."""
        return self._num_speech >= MIN_SPEECH_FRAMES

    def held(self) -> np.ndarray:
        """`(N,)` samples of the segment that is open."""
        if len(self._pieces) > 1:
            self._pieces = [np.concatenate(self._pieces)]
        return np.concatenate([*self._pieces, self._rest])

    def feed(self, samples: np.ndarray) -> list[Segment]:
        """Take `(N,)` more samples; the segments that end in them."""
        segments = []
        pending = np.concatenate([self._rest, samples])
        num_whole = len(pending) // self._frame * self._frame
        frames = pending[:num_whole].reshape(-1, self._frame)
        self._rest = pending[num_whole:]
        levels = 10 * np.log10(np.mean(np.square(frames), axis=1) + 1e-12)
        taken = 0
        for index, level in enumerate(levels.tolist(), start=1):
            self._hear(level)
            if self._is_over():
                self._hold(frames[taken:index])
                taken = index
                segments += self._cut_by_rule()
        self._hold(frames[taken:])
        return segments

    def cut(self) -> Segment | None:
        """End the segment here; None if nothing is held."""
        waveform = self.held()
        if not len(waveform):
            return None
        segment = Segment(waveform, self.start_s, self.has_speech, at_pause=False)
        self._start += len(waveform)
        self._pieces, self._num_held, self._rest = [], 0, np.zeros(0, np.float32)
        self._begin_segment([])
        return segment

    def drop(self) -> None:
        """Forget what is held."""
        self.cut()

    def _begin_segment(self, levels: list[float]) -> None:
        """Begin with frames of these levels."""
        self._levels: list[float] = []
        self._num_quiet = self._num_speech = 0
        for level in levels:
            self._note(level)

    def _hear(self, level_db: float) -> None:
        self._floor_db = max(min(self._floor_db + FLOOR_RISE_DB_PER_S * FRAME_S, level_db), LOWEST_FLOOR_DB)
        self._note(level_db)

    def _note(self, level_db: float) -> None:
        self._levels.append(level_db)
        if level_db > self._floor_db + SPEECH_DB:
            self._num_speech += 1
            self._num_quiet = 0
        else:
            self._num_quiet += 1

    def _is_over(self) -> bool:
        length_s = len(self._levels) * FRAME_S
        if length_s >= self.rules.max_s:
            return True
        if self.rules.pause_s is None:
            return False
        if not self.has_speech:
            return length_s >= IDLE_S
        return self._num_quiet * FRAME_S >= self.rules.pause_s

    def _cut_by_rule(self) -> list[Segment]:
        """End the open segment: in the middle of its pause, or where it is quietest; leave out what holds no speech."""
        num_frames = len(self._levels)
        paused = self.rules.pause_s is not None and self._num_quiet * FRAME_S >= self.rules.pause_s
        idle = self.rules.pause_s is not None and not self.has_speech
        if idle:
            end = num_frames - round(KEPT_S / FRAME_S)
        elif paused:
            end = num_frames - self._num_quiet // 2
        else:
            end = _quietest(self._levels, num_frames * 2 // 3)
        waveform, samples = np.concatenate(self._pieces), end * self._frame
        segment = Segment(waveform[:samples].copy(), self.start_s, self.has_speech, at_pause=paused)
        self._pieces, self._num_held = [waveform[samples:].copy()], len(waveform) - samples
        self._start += samples
        self._begin_segment(self._levels[end:])
        return [] if idle else [segment]

    def _hold(self, frames: np.ndarray) -> None:
        if len(frames):
            self._pieces.append(frames.reshape(-1))
            self._num_held += frames.size


def _quietest(levels: list[float], first: int) -> int:
    """The frame in the middle of the quietest window behind `first`."""
    window = min(QUIET_WINDOW_FRAMES, len(levels) - first)
    energies = np.convolve(np.power(10, np.array(levels[first:]) / 10), np.ones(window), mode="valid")
    return first + int(energies.argmin()) + window // 2
