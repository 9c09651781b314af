"""eSpeak NG as a process of its own: text in, 16-bit samples out. Run as `python -m jasper_ray.data.espeak`.

eSpeak keeps state between calls: the same call twice in one process differs. So this process loads the library, and
forks a child for every utterance: then the same request gives the same samples, whatever was spoken before. The
library comes from the wheel `espeakng-loader` and is used through ctypes; it never runs in the process that asks.
"""

import ctypes
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jasper_ray.errors import DataError

# Constants of speak_lib.h.
AUDIO_OUTPUT_SYNCHRONOUS, BUFFER_MS = 2, 200
PARAMETERS = {"rate": 1, "pitch": 3, "range": 4}
POSITION_CHARACTER, CHARACTERS_UTF8 = 1, 1
EVENT_END_OF_LIST, EVENT_WORD = 0, 1


class Event(ctypes.Structure):
    """`espeak_EVENT` of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


SampleCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))


class WordBegin(NamedTuple):
    """Where eSpeak began to say a word."""

    character: int
    """Index of its first letter in the text."""
    sample: int


class Espeak:
    """A process that speaks; use as a context manager.

    Raises:
        DataError: The wheel `espeakng-loader` is not installed.
    """

    def __enter__(self) -> "Espeak":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jasper_ray.data.espeak"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.sample_rate_hz = self._read_header("start")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def speak_all(self, requests: Sequence[Mapping[str, Any]]) -> Iterator[np.ndarray]:
        """Samples `(N,)` int16 of each request: `text`, `voice`, `rate` (words per minute), `pitch` and `range` (0 to
        99).

        Raises:
            DataError: A voice does not exist or says nothing; names the request.
        """
        # Two requests are open at a time: that process speaks the next utterance while this one works on the last.
        self._ask(requests[:2])
        for number, request in enumerate(requests):
            samples, _ = self._read_answer(request)
            self._ask(requests[number + 2 : number + 3])
            yield samples

    def speak_words(self, request: Mapping[str, Any]) -> tuple[np.ndarray, list[WordBegin]]:
        """One request as of `speak_all`: its samples, and where its words begin; words may be taken together.

        Raises:
            DataError: As `speak_all`.
        """
        self._ask([request])
        return self._read_answer(request)

    def _read_answer(self, request: Mapping[str, Any]) -> tuple[np.ndarray, list[WordBegin]]:
        assert self._process.stdout is not None
        samples = np.frombuffer(self._process.stdout.read(self._read_header(str(request))), dtype=np.int16)
        (num_words,) = struct.unpack("<i", self._process.stdout.read(4))
        numbers = struct.unpack(f"<{2 * num_words}i", self._process.stdout.read(8 * num_words))
        if not samples.any():
            raise DataError(f"eSpeak NG was silent for {request}")
        return samples, [WordBegin(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]

    def _ask(self, requests: Sequence[Mapping[str, Any]]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"".join(json.dumps(request).encode() + b"\n" for request in requests))
        self._process.stdin.flush()

    def _read_header(self, what: str) -> int:
        assert self._process.stdout is not None
        header = self._process.stdout.read(4)
        number: int = struct.unpack("<i", header)[0] if len(header) == 4 else -1
        if number <= 0:
            raise DataError(
                f"eSpeak NG failed ({what}): the embedded corpus needs the extra `demo`: pip install 'jasper-ray[demo]'"
                if what == "start"
                else f"eSpeak NG said nothing for {what}: the voice does not exist, is silent or crashes"
            )
        return number


class _Library:
    """The library in this process; every call to `speak` must be in a fresh fork."""

    def __init__(self) -> None:
        import espeakng_loader

        self._lib = ctypes.CDLL(espeakng_loader.get_library_path())
        self._lib.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int,
            ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        folder = str(Path(espeakng_loader.get_data_path()).parent).encode()
        self.sample_rate_hz = int(self._lib.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, BUFFER_MS, folder, 0))
        self._lib.espeak_ListVoices(None)  # reads the folder of voices once, not again in every child
        self._pieces: list[bytes] = []
        self._words: list[WordBegin] = []
        self._callback = SampleCallback(self._take)
        self._lib.espeak_SetSynthCallback(self._callback)

    def _take(self, samples: Any, count: int, events: Any) -> int:
        if count > 0:
            self._pieces.append(ctypes.string_at(samples, 2 * count))
        number = 0
        while events and events[number].type != EVENT_END_OF_LIST:
            if events[number].type == EVENT_WORD:
                self._words.append(WordBegin(events[number].text_position - 1, events[number].sample))
            number += 1
        return 0

    def speak(self, request: Mapping[str, Any]) -> bytes:
        """The answer: length and samples, number of words and their beginnings; nothing if it failed."""
        if self._lib.espeak_SetVoiceByName(request["voice"].encode()):
            return b""
        for name, number in PARAMETERS.items():
            self._lib.espeak_SetParameter(number, int(request[name]), 0)
        text = request["text"].encode() + b"\0"
        self._lib.espeak_Synth(text, len(text), 0, POSITION_CHARACTER, 0, CHARACTERS_UTF8, None, None)
        self._lib.espeak_Synchronize()
        samples = b"".join(self._pieces)
        words = b"".join(struct.pack("<ii", *word) for word in self._words)
        return struct.pack("<i", len(samples)) + samples + struct.pack("<i", len(self._words)) + words


def main() -> None:
    """Answer requests (a JSON object a line) as `speak` until the input ends."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # who asked has gone: end without a word
    try:
        library = _Library()
    except ImportError:
        sys.exit(3)
    output = sys.stdout.buffer
    output.write(struct.pack("<i", library.sample_rate_hz))
    output.flush()
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            output.write(library.speak(json.loads(line)) or struct.pack("<i", 0))
            output.flush()
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            output.write(struct.pack("<i", -1))
            output.flush()


if __name__ == "__main__":
    main()
