"""OpenAI's audio transcription API: bytes in, transcript out, every error in OpenAI's shape.

Knows nothing of Ray: it is a FastAPI application over any `Recognizer`.
"""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np
from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from jasper_ray.audio.decode import audio_info, decode_audio
from jasper_ray.errors import AudioError
from jasper_ray.inference.transcriber import Transcript

RESPONSE_FORMATS = ("json", "text")
READABLE = "WAV, FLAC, MP3, Ogg Vorbis or Opus, at any rate and with any number of channels"


class Recognizer(Protocol):
    """Whoever turns waveforms into transcripts."""

    async def transcribe(self, waveform: np.ndarray) -> Transcript:
        """The transcript of `(N,)` float32 at the model's rate."""
        ...


@dataclass(frozen=True)
class ModelCard:
    """What clients are told about the model."""

    name: str
    sample_rate_hz: int
    created: int
    """Seconds since 1970."""
    details: dict[str, Any]
    """Run, step and word error rate of the bundle."""


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    max_upload_bytes: int
    max_duration_s: float


class ApiError(Exception):
    """An answer that is an error: HTTP status and OpenAI's fields."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code


def build_api(recognizer: Recognizer, card: ModelCard, limits: Limits) -> FastAPI:
    """The HTTP application.

    Args:
        recognizer: Takes the waveforms.
        card: The one model there is.
        limits: Larger requests are refused.
    """
    api = FastAPI(title="jasper_ray", description="OpenAI's audio transcription API")
    _answer_errors_in_openai_shape(api)
    _add_model_routes(api, card)

    @api.post("/v1/audio/transcriptions", response_model=None)
    async def create_transcription(
        request: Request,
        file: Annotated[UploadFile, File(description=READABLE)],
        model: Annotated[str, Form()],
        response_format: Annotated[str, Form()] = "json",
        stream: Annotated[bool, Form()] = False,
    ) -> Response | dict[str, Any]:
        # language, prompt and temperature may be sent: this model has one language and no sampling.
        _check_model(model, card)
        if response_format not in RESPONSE_FORMATS:
            allowed = ", ".join(RESPONSE_FORMATS)
            raise ApiError(
                400, f"response_format {response_format!r} is not supported: use {allowed}", param="response_format"
            )
        if stream:
            raise ApiError(400, "stream=true is not supported: leave it out", param="stream")
        waveform = await _read_waveform(file, card, limits)
        transcript = await recognizer.transcribe(waveform)
        if response_format == "text":
            return PlainTextResponse(transcript.text + "\n")
        usage = {"type": "duration", "seconds": transcript.duration_s}
        return {"text": transcript.text, "usage": usage}

    return api


async def _read_waveform(file: UploadFile, card: ModelCard, limits: Limits) -> np.ndarray:
    """Decode an upload before it meets any other request, so that a bad one can harm none."""
    content = await file.read(limits.max_upload_bytes + 1)
    if len(content) > limits.max_upload_bytes:
        raise ApiError(413, f"Maximum content size limit ({limits.max_upload_bytes}) exceeded", param="file")
    name = file.filename or "file"
    try:
        info = await asyncio.to_thread(audio_info, content)
        if info.duration_s > limits.max_duration_s:
            raise ApiError(
                400,
                f"{name} lasts {info.duration_s:.1f} s, the limit is {limits.max_duration_s:g} s: send it in pieces",
                param="file",
                code="audio_too_long",
            )
        return await asyncio.to_thread(decode_audio, content, sample_rate_hz=card.sample_rate_hz)
    except AudioError as error:
        message = f"{name} cannot be read as audio: {error}. Send {READABLE}."
        raise ApiError(400, message, param="file", code="invalid_audio") from error


def _check_model(name: str, card: ModelCard) -> None:
    if name != card.name:
        message = f"The model {name!r} does not exist; there is {card.name!r}"
        raise ApiError(404, message, param="model", code="model_not_found")


def _add_model_routes(api: FastAPI, card: ModelCard) -> None:
    model = {"id": card.name, "object": "model", "created": card.created, "owned_by": "jasper_ray"}

    @api.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @api.get("/v1/models/{name}")
    async def retrieve_model(name: str) -> dict[str, Any]:
        _check_model(name, card)
        return model

    @api.get("/healthz")
    async def healthz() -> dict[str, Any]:
        return {"status": "ok", "model": card.name, **card.details}


def _answer_errors_in_openai_shape(api: FastAPI) -> None:
    @api.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> JSONResponse:
        return _error(error.status, error.message, error.param, error.code)

    @api.exception_handler(RequestValidationError)
    async def invalid_request(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = str(first["loc"][-1])
        if first["type"] == "missing":
            return _error(400, f"Missing required parameter: {param!r}", param, "missing_required_parameter")
        return _error(400, f"Invalid {param!r}: {first['msg']}", param, "invalid_value")

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, f"{error.detail}: {request.method} {request.url.path}", None, None)

    @api.exception_handler(Exception)
    async def internal_error(_: Request, error: Exception) -> JSONResponse:
        return _error(500, f"The server failed: {type(error).__name__}", None, "internal_error")


def _error(status: int, message: str, param: str | None, code: str | None) -> JSONResponse:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)
