"""OpenAI's audio transcription API: bytes in, transcript out.

Knows nothing of Ray: routes over any `Recognizer`. Errors in OpenAI's shape are made in `serve/errors.py`.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, Field, ValidationError

from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.errors import AudioError
from jasper_ray.inference.long_audio import LONG_AUDIO_S
from jasper_ray.inference.transcriber import Transcript, joined
from serve.errors import ApiError
from serve.forms import FormFile, FormItem, read_form
from serve.openai_replies import (
    FORMATS,
    MEDIA_TYPES,
    Format,
    event_stream,
    groups_of,
    json_reply,
    plain_reply,
    verbose_reply,
)
from serve.recognizer import ModelCard, Recognizer
from serve.uploads import READABLE, Limits, LongUpload, not_audio, read_upload
from serve.wishes import Wish, wish_of

GRANULARITIES = ("word", "segment")
TRANSCRIPT_REPLY: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The transcript in the format that was asked for; server-sent events with `stream`",
        "content": {kind: {} for kind in ("application/json", "text/plain", "text/vtt", "text/event-stream")},
    },
    **{status: {"description": text} for status, text in ((400, "A field or the audio is wrong"),
       (404, "No such model"), (413, "Too large"), (429, "Busy: see retry-after"))},
}  # fmt: skip


class TranscriptionForm(BaseModel):
    """What a client asks for, beside the file."""

    model: str
    response_format: str = "json"
    stream: bool = False
    temperature: Annotated[float, Field(ge=0, le=1, description="accepted, without effect")] = 0.0
    language: Annotated[str | None, Field(description="accepted, without effect")] = None
    prompt: Annotated[str | None, Field(description="accepted, without effect")] = None
    granularities: Annotated[list[str], Field(alias="timestamp_granularities[]")] = []
    include: Annotated[list[str], Field(alias="include[]")] = []
    decoding: Annotated[str, Field(description="ours: greedy or beam")] = ""
    num_best: Annotated[int, Field(description="ours: alternatives in json and verbose_json, 1 to 50")] = 1
    hotwords: Annotated[str, Field(description='ours: {"word or phrase": weight}')] = ""


def openai_routes(recognizer: Recognizer, card: ModelCard, limits: Limits) -> APIRouter:
    """The routes under `/v1`.

    Args:
        recognizer: Takes the waveforms.
        card: The one model there is.
        limits: Larger requests are refused.
    """
    routes = APIRouter()
    _add_model_routes(routes, card)
    body = {"content": {"multipart/form-data": {"schema": _form_schema(card)}}, "required": True}

    @routes.post(
        "/v1/audio/transcriptions",
        response_model=None,
        responses=TRANSCRIPT_REPLY,
        openapi_extra={"requestBody": body},
    )
    async def create_transcription(request: Request) -> Response:
        asked, file = _checked_form(await read_form(request, max_file_bytes=limits.max_upload_bytes))
        require_model(asked.model, card)
        form = _checked_format(asked.response_format)
        wanted = _checked_granularities(asked.granularities, form)
        with_logprobs = _checked_include(asked.include, form)
        if asked.stream and form not in ("json", "text"):
            raise ApiError(400, f"stream=true goes with json and text, not with {form}", param="stream")
        wish = wish_of(
            decoding=asked.decoding,
            num_best=asked.num_best,
            hotwords=asked.hotwords,
            alphabet=card.alphabet,
            default=card.decoding,
        )
        chosen = recognizer.pick()
        upload = await read_upload(
            file.content,
            file.filename or "file",
            recognizer=chosen,
            sample_rate_hz=card.sample_rate_hz,
            limits=limits,
        )
        if asked.stream:
            groups, duration_s = await _groups(chosen, upload, card, wish)
            events = event_stream(groups, duration_s=duration_s, with_logprobs=with_logprobs)
            return StreamingResponse(events, media_type="text/event-stream")
        transcript = await _transcribed(chosen, upload, wish)
        if form == "json":
            return JSONResponse(json_reply(transcript, with_logprobs=with_logprobs))
        if form == "verbose_json":
            return JSONResponse(verbose_reply(transcript, language=card.language, granularities=wanted))
        return PlainTextResponse(plain_reply(transcript, form), media_type=MEDIA_TYPES[form])

    return routes


def _checked_form(items: Sequence[FormItem]) -> tuple[TranscriptionForm, FormFile]:
    """The fields and the file. By hand: FastAPI's own way through a form was half of a request's 2,500 calls."""
    fields: dict[str, Any] = {}
    for name, value in items:
        if name.endswith("[]"):
            fields.setdefault(name, []).append(value)
        else:
            fields[name] = value
    file = fields.pop("file", None)
    try:
        asked = TranscriptionForm.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    if file is None:
        raise RequestValidationError([{"type": "missing", "loc": ("file",), "msg": "Field required"}])
    if not isinstance(file, FormFile):
        raise ApiError(400, "file must be a file, got text: give it a filename", param="file", code="invalid_value")
    return asked, file


def _form_schema(card: ModelCard) -> dict[str, Any]:
    """The form as the OpenAPI document shows it."""
    schema = TranscriptionForm.model_json_schema()
    file = {"type": "string", "contentMediaType": "application/octet-stream", "description": READABLE}
    schema["properties"] = {"file": file, **schema["properties"]}
    schema["properties"]["model"]["enum"] = [card.name]
    schema["properties"]["response_format"]["enum"] = list(FORMATS)
    schema["required"] = ["file", "model"]
    return schema


async def _transcribed(recognizer: Recognizer, upload: np.ndarray | LongUpload, wish: Wish | None) -> Transcript:
    if not isinstance(upload, LongUpload):
        return await _heard(recognizer, upload, wish)
    _require_greedy(wish)
    try:
        transcript = joined([piece async for piece in recognizer.stream(upload.source)])
    except AudioError as error:  # damaged behind its header
        raise not_audio("file", error) from error
    return replace(transcript, duration_s=upload.duration_s)


async def _heard(recognizer: Recognizer, waveform: np.ndarray, wish: Wish | None) -> Transcript:
    return await (recognizer.transcribe(waveform) if wish is None else recognizer.search(waveform, wish))


def _require_greedy(wish: Wish | None) -> None:
    """Long recordings are read window by window, greedily."""
    if wish is not None and wish.explicit:
        message = f"beam search takes audio of up to {LONG_AUDIO_S:g} s: send it in pieces, or ask for greedy"
        raise ApiError(400, message, param="decoding", code="audio_too_long")


async def _groups(
    recognizer: Recognizer, upload: np.ndarray | LongUpload, card: ModelCard, wish: Wish | None
) -> tuple[AsyncIterator[Sequence[WordSpan]], float]:
    """Words that are sent together, and the length of the audio; of a long one, as soon as they are known."""
    if isinstance(upload, LongUpload):
        _require_greedy(wish)
        return (piece.words async for piece in recognizer.stream(upload.source)), upload.duration_s
    return groups_of(await _heard(recognizer, upload, wish)), len(upload) / card.sample_rate_hz


def require_model(name: str, card: ModelCard) -> None:
    """Refuse names of other models.

    Raises:
        ApiError: 404.
    """
    if name != card.name:
        message = f"The model {name!r} does not exist; there is {card.name!r}"
        raise ApiError(404, message, param="model", code="model_not_found")


def _checked_format(name: str) -> Format:
    for form in FORMATS:
        if form == name:
            return form
    raise ApiError(400, f"response_format {name!r} is not supported: use {', '.join(FORMATS)}", param="response_format")


def _checked_granularities(names: list[str], form: Format) -> list[str]:
    param = "timestamp_granularities"
    unknown = [name for name in names if name not in GRANULARITIES]
    if unknown:
        raise ApiError(400, f"{param} {unknown[0]!r} is not supported: use {', '.join(GRANULARITIES)}", param=param)
    if names and form != "verbose_json":
        raise ApiError(400, f"{param} needs response_format verbose_json, got {form}", param=param)
    return names


def _checked_include(names: list[str], form: Format) -> bool:
    unknown = [name for name in names if name != "logprobs"]
    if unknown:
        raise ApiError(400, f"include {unknown[0]!r} is not supported: use logprobs", param="include")
    if names and form != "json":
        raise ApiError(400, f"include logprobs needs response_format json, got {form}", param="include")
    return bool(names)


def _add_model_routes(routes: APIRouter, card: ModelCard) -> None:
    model = {"id": card.name, "object": "model", "created": card.created, "owned_by": "jasper_ray"}

    @routes.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @routes.get("/v1/models/{name}", responses={404: {"description": "No such model"}})
    async def retrieve_model(name: Annotated[str, Path(json_schema_extra={"enum": [card.name]})]) -> dict[str, Any]:
        require_model(name, card)
        return model
