"""What a replica tells Prometheus: requests by API and status, and what its scheduler did. Knows nothing of Ray."""

import threading
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jasper_ray.observe.metrics import Sink, Totals
from serve.errors import path_of
from serve.recognizer import HangingError, LocalRecognizer

POLL_S = 1.0
VERSION = "1"
MICROSECONDS = 1e6
APIS = {
    "/v1/audio": "openai",
    "/v1/realtime": "realtime",
    "/v1": "openai",
    "/v2": "kserve",
    "/vosk": "vosk",
    "/healthz": "health",
}
"""By the beginning of the path; everything else is the page."""


class CountRequests:
    """Counts every answer and how long it took; a WebSocket counts when it ends, with the status that closed it."""

    def __init__(self, app: ASGIApp, *, sink: Sink, model: str) -> None:
        self._app, self._sink, self._model = app, sink, model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        started_s, status = time.perf_counter(), "aborted"

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            elif message["type"] == "websocket.accept":
                status = "101"
            elif message["type"] == "websocket.close":
                status = str(message.get("code", 1000))
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            labels = {"model": self._model, "api": api_of(path_of(scope))}
            self._sink.record("jasper_serve_requests_total", 1, {**labels, "status": status})
            if scope["type"] == "http":
                self._sink.record("jasper_serve_request_seconds", time.perf_counter() - started_s, labels)


def api_of(path: str) -> str:
    """Which API a path belongs to."""
    return next((api for prefix, api in APIS.items() if path == prefix or path.startswith(prefix + "/")), "page")


class LoadMetrics:
    """Looks at a recogniser's scheduler once a second: nothing of it is on a request's way.

    Args:
        sink: Takes the figures.
        recognizer: Whose.
        model: Name that clients ask for.
    """

    def __init__(self, sink: Sink, recognizer: LocalRecognizer, *, model: str) -> None:
        self._sink, self._recognizer = sink, recognizer
        self._labels = {"model": model}
        self._ours = Totals(sink, self._labels)
        self._tritons = Totals(sink, {"model": model, "version": VERSION})
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load-metrics", daemon=True)

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stopped.set()

    def look(self) -> None:
        """Record how things stand."""
        load = self._recognizer.load()
        for name, value in (
            ("jasper_serve_waiting_utterances", load.waiting),
            ("jasper_serve_waiting_audio_seconds", load.waiting_s),
            ("jasper_serve_step_age_seconds", load.step_age_s),
            ("jasper_serve_healthy", float(self._moves())),
        ):
            self._sink.record(name, value, self._labels)
        computed = load.num_items - load.num_failed
        for name, total in (
            ("jasper_serve_batches_total", load.num_steps),
            ("jasper_serve_utterances_total", load.num_items),
            ("jasper_serve_audio_seconds_total", load.audio_s),
            ("jasper_serve_padded_audio_seconds_total", load.padded_s),
            ("jasper_serve_model_seconds_total", load.busy_s),
            ("jasper_serve_queue_seconds_total", load.queued_s),
            ("jasper_serve_failed_total", load.num_failed),
            ("jasper_serve_rejected_total", load.num_refused),
        ):
            self._ours.reach(name, total)
        for name, total in (
            ("nv_inference_request_success", computed),
            ("nv_inference_request_failure", load.num_failed + load.num_refused),
            ("nv_inference_count", load.num_items),
            ("nv_inference_exec_count", load.num_steps),
            ("nv_inference_queue_duration_us", MICROSECONDS * load.queued_s),
            ("nv_inference_compute_infer_duration_us", MICROSECONDS * load.busy_s),
        ):
            self._tritons.reach(name, total)

    def _run(self) -> None:
        while not self._stopped.wait(POLL_S):
            self.look()

    def _moves(self) -> bool:
        try:
            self._recognizer.require_progress()
        except HangingError:
            return False
        return True
