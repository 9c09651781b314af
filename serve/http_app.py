"""The HTTP application: every API over one recogniser. Knows nothing of Ray."""

import asyncio
import logging

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from jasper_ray.observe.metrics import Sink
from serve.access import LimitBody, RequestIds, RequireKey
from serve.errors import AnswerFailures, answer_errors
from serve.kserve_api import kserve_routes
from serve.live_socket import Door, LiveLimits
from serve.metrics import CountRequests
from serve.openai_api import openai_routes
from serve.page_routes import page_routes
from serve.realtime_api import realtime_routes
from serve.recognizer import ModelCard, Recognizer
from serve.uploads import Limits, too_large
from serve.vosk_api import vosk_routes

FORM_BYTES = 2**16
"""What the other fields of a form may take beside the file."""
CHECK_TIMEOUT_S = 10.0

log = logging.getLogger(__name__)


def build_api(
    recognizer: Recognizer,
    card: ModelCard,
    limits: Limits,
    *,
    live: LiveLimits | None = None,
    key_digests: tuple[str, ...] = (),
    name_requests: bool = True,
    sink: Sink | None = None,
) -> FastAPI:
    """The HTTP application.

    Args:
        recognizer: Takes the waveforms.
        card: The one model there is.
        limits: Larger requests are refused.
        live: What live sessions may take.
        key_digests: Of the API keys; empty lets anyone ask.
        name_requests: Whether replies get an `x-request-id` here; Ray Serve's proxy gives them one itself.
        sink: Takes counts and times of requests.
    """
    api = FastAPI(
        title="jasper_ray",
        description="Speech to text: the APIs of OpenAI, KServe v2 and vosk",
    )
    answer_errors(api)
    api.include_router(openai_routes(recognizer, card, limits))
    api.include_router(kserve_routes(recognizer, card, limits))
    door = Door(live or LiveLimits())
    api.include_router(realtime_routes(recognizer, card, door))
    api.include_router(vosk_routes(recognizer, card, door))
    api.include_router(page_routes())
    _add_health(api, recognizer, card)
    # The last one added sees a request first.
    api.add_middleware(AnswerFailures)
    api.add_middleware(LimitBody, max_bytes=limits.max_upload_bytes + FORM_BYTES, message=too_large(limits).detail)
    api.add_middleware(RequireKey, digests=key_digests)
    if name_requests:
        api.add_middleware(RequestIds)
    if sink is not None:
        api.add_middleware(CountRequests, sink=sink, model=card.name)
    return api


def _add_health(api: FastAPI, recognizer: Recognizer, card: ModelCard) -> None:
    @api.get("/healthz", responses={503: {"description": "The model gives no transcript"}})
    async def healthz() -> JSONResponse:
        """Has the model transcribe a little noise."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                took_s = await recognizer.check()
        except Exception as error:  # whatever it is, it is the answer to the question
            log.exception("the health check failed")
            return JSONResponse({"status": "failing", "model": card.name, "error": type(error).__name__}, 503)
        return JSONResponse({"status": "ok", "model": card.name, "model_s": round(took_s, 4), **card.details})
