"""Errors of every API, each in the shape that its clients read."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.scheduler import ClosedError, OverloadedError

KSERVE_PREFIX = "/v2"

log = logging.getLogger(__name__)


class ApiError(HTTPException):
    """An answer that is an error: HTTP status, and OpenAI's fields."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.param, self.code = param, code


def overloaded(error: OverloadedError) -> ApiError:
    """429 with the two headers that OpenAI's clients wait by."""
    headers = {
        "retry-after": str(max(1, round(error.retry_after_s))),
        "retry-after-ms": str(round(error.retry_after_s * 1000)),
    }
    message = f"The service is busy: {error}. Try again in {error.retry_after_s:.1f} s"
    return ApiError(429, message, code="rate_limit_exceeded", headers=headers)


def error_reply(path: str, error: ApiError) -> JSONResponse:
    """The reply to a request for a path."""
    return JSONResponse(error_body(path, error), error.status_code, headers=dict(error.headers or {}))


def error_body(path: str, error: ApiError) -> dict[str, object]:
    """The JSON of an error: a string for KServe's clients, OpenAI's four fields for all others."""
    if path.startswith(KSERVE_PREFIX):
        return {"error": error.detail}
    kind = "invalid_request_error"
    if error.status_code >= 500:
        kind = "server_error"
    elif error.status_code == 429:
        kind = "requests"
    return {"error": {"message": error.detail, "type": kind, "param": error.param, "code": error.code}}


def answer_errors(api: FastAPI) -> None:
    """Handlers for whatever a route may raise."""

    @api.exception_handler(RequestValidationError)
    async def invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_reply(path_of(request.scope), _invalid(error))

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        if not isinstance(error, ApiError):
            message = f"{error.detail}: {request.method} {request.url.path}"
            error = ApiError(error.status_code, message, headers=dict(error.headers or {}))
        return error_reply(path_of(request.scope), error)

    @api.exception_handler(OverloadedError)
    async def busy(request: Request, error: OverloadedError) -> JSONResponse:
        return error_reply(path_of(request.scope), overloaded(error))

    @api.exception_handler(ClosedError)
    async def closing(request: Request, error: ClosedError) -> JSONResponse:
        reply = ApiError(503, f"Not taken: {error}", code="shutting_down", headers={"retry-after": "1"})
        return error_reply(path_of(request.scope), reply)


class AnswerFailures:
    """Our own mistakes are a 500 in the API's shape and a traceback in the log; the connection stays open."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            return await self._app(scope, receive, noted)
        except ClientDisconnect:  # in the middle of its upload: nobody is there to be answered
            return None
        except Exception as error:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if started:  # a reply that is half sent can only be cut
                raise
            failed = ApiError(500, f"The server failed: {type(error).__name__}", code="internal_error")
            return await error_reply(path_of(scope), failed)(scope, receive, send)


def path_of(scope: Scope) -> str:
    """The path below the application's own prefix."""
    return str(scope.get("path", "")).removeprefix(scope.get("root_path", ""))


def _invalid(error: RequestValidationError) -> ApiError:
    first = error.errors()[0]
    param = str(first["loc"][-1])
    if first["type"] == "missing":
        return ApiError(400, f"Missing required parameter: {param!r}", param=param, code="missing_required_parameter")
    return ApiError(400, f"Invalid {param!r}: {first['msg']}", param=param, code="invalid_value")
