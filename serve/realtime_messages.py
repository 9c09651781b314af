"""OpenAI's realtime transcription: what clients say, checked, and what they are told."""

import base64
import binascii
import json
import time
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from serve.errors import ApiError
from serve.pcm_stream import MAX_RATE_HZ, MIN_RATE_HZ, Encoding

OPENAI_RATE_HZ = 24_000
G711_RATE_HZ = 8000
LOGPROBS = "item.input_audio_transcription.logprobs"
FORMATS: dict[str, Encoding] = {"audio/pcm": "pcm16", "audio/pcmu": "pcmu", "audio/pcma": "pcma"}
TRANSCRIPTION = "conversation.item.input_audio_transcription"


class AudioFormat(BaseModel):
    """How appended audio is written: 16-bit little-endian PCM of one channel, or G.711 at 8 kHz."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: int | None = Field(None, ge=MIN_RATE_HZ, le=MAX_RATE_HZ)

    @property
    def rate_hz(self) -> int:
        """The rate, or the format's usual one."""
        return self.rate or (OPENAI_RATE_HZ if self.type == "audio/pcm" else G711_RATE_HZ)


class TurnDetection(BaseModel):
    """When an item ends by itself."""

    type: Literal["server_vad", "semantic_vad"] = "server_vad"
    silence_duration_ms: int | None = Field(None, ge=100, le=60_000)
    prefix_padding_ms: int | None = None
    threshold: float | None = None


class Transcription(BaseModel):
    """Which model writes."""

    model: str | None = None
    language: str | None = None
    prompt: str | None = None


class AudioInput(BaseModel):
    """What is said about the audio."""

    format: AudioFormat | None = None
    transcription: Transcription | None = None
    turn_detection: TurnDetection | None = None
    noise_reduction: dict[str, Any] | None = None


class Audio(BaseModel):
    """Only input: nothing is spoken."""

    input: AudioInput | None = None


class Session(BaseModel):
    """A session, or the part of it that is to change."""

    type: Literal["transcription"] = "transcription"
    audio: Audio | None = None
    include: list[Literal["item.input_audio_transcription.logprobs"]] | None = None


class SessionUpdate(BaseModel):
    """`session.update`."""

    type: Literal["session.update"]
    event_id: str | None = None
    session: Session


class Append(BaseModel):
    """`input_audio_buffer.append`."""

    type: Literal["input_audio_buffer.append"]
    event_id: str | None = None
    audio: str

    def content(self) -> bytes:
        """The audio.

        Raises:
            ApiError: It is not base64.
        """
        try:
            return base64.b64decode(self.audio, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ApiError(400, f"audio is not base64: {error}", param="audio", code="invalid_value") from error


class Commit(BaseModel):
    """`input_audio_buffer.commit`."""

    type: Literal["input_audio_buffer.commit"]
    event_id: str | None = None


class Clear(BaseModel):
    """`input_audio_buffer.clear`."""

    type: Literal["input_audio_buffer.clear"]
    event_id: str | None = None


ClientEvent = SessionUpdate | Append | Commit | Clear


class _AnyEvent(BaseModel):
    event: Annotated[ClientEvent, Field(discriminator="type")]


CLIENT_EVENTS = tuple(f"{kind.model_fields['type'].annotation.__args__[0]}" for kind in ClientEvent.__args__)  # type: ignore[union-attr]


def parse_event(message: str | bytes) -> ClientEvent:
    """A client's event.

    Raises:
        ApiError: It is none; `param` names what is wrong with it.
    """
    try:
        said = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The message is not JSON: {error}", code="invalid_json") from error
    if not isinstance(said, dict) or not isinstance(said.get("type"), str):
        raise ApiError(400, "A message is a JSON object with a string `type`", param="type", code="invalid_value")
    if said["type"] not in CLIENT_EVENTS:
        text = f"Event {said['type'][:60]!r} is not supported: use {', '.join(CLIENT_EVENTS)}"
        raise ApiError(400, text, param="type", code="invalid_value")
    try:
        return _AnyEvent.model_validate({"event": said}).event
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][2:])
        text = f"Invalid {param!r}: {first['msg']}, got {first['input']!r:.60}"
        raise ApiError(400, text, param=param, code="invalid_value") from error


def event_id_of(message: str | bytes) -> str | None:
    """The id that a client gave its event, for the error about it."""
    try:
        said = json.loads(message)
        name = said.get("event_id") if isinstance(said, dict) else None
    except (ValueError, RecursionError):
        return None
    return name if isinstance(name, str) else None


def new_id(kind: str) -> str:
    """An id as OpenAI's look."""
    return f"{kind}_{uuid.uuid4().hex[:21]}"


def server_event(kind: str, **fields: Any) -> dict[str, Any]:
    """An event for the client."""
    return {"type": kind, "event_id": new_id("event"), **fields}


def error_event(error: ApiError, event_id: str | None = None) -> dict[str, Any]:
    """`error`."""
    return server_event("error", error={**error_fields(error), "event_id": event_id})


def error_fields(error: ApiError) -> dict[str, Any]:
    """OpenAI's four fields."""
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    return {"type": kind, "code": error.code, "message": error.detail, "param": error.param}


def described_session(session_id: str, audio: AudioInput, include: list[str], lasts_s: float) -> dict[str, Any]:
    """The whole session, as `session.created` and `session.updated` have it."""
    form = audio.format or AudioFormat()
    return {
        "id": session_id,
        "object": "realtime.transcription_session",
        "type": "transcription",
        "expires_at": int(time.time() + lasts_s),
        "include": include,
        "audio": {
            "input": {
                "format": {"type": form.type, "rate": form.rate_hz},
                "transcription": None if audio.transcription is None else audio.transcription.model_dump(),
                "turn_detection": audio.turn_detection and audio.turn_detection.model_dump(exclude_none=True),
                "noise_reduction": audio.noise_reduction,
            }
        },
    }
