"""Errors of every API, each in the shape that its clients read."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serve.scheduler import ClosedError, OverloadedError

KSERVE_PREFIX = "/v2"


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
        return error_reply(_path(request), _invalid(error))

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        if not isinstance(error, ApiError):
            message = f"{error.detail}: {request.method} {request.url.path}"
            error = ApiError(error.status_code, message, headers=dict(error.headers or {}))
        return error_reply(_path(request), error)

    @api.exception_handler(OverloadedError)
    async def busy(request: Request, error: OverloadedError) -> JSONResponse:
        return error_reply(_path(request), overloaded(error))

    @api.exception_handler(ClosedError)
    async def closing(request: Request, error: ClosedError) -> JSONResponse:
        reply = ApiError(503, f"Not taken: {error}", code="shutting_down", headers={"retry-after": "1"})
        return error_reply(_path(request), reply)

    @api.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> JSONResponse:
        failed = ApiError(500, f"The server failed: {type(error).__name__}", code="internal_error")
        return error_reply(_path(request), failed)


def _path(request: Request) -> str:
    """The path below the application's own prefix."""
    return request.url.path.removeprefix(request.scope.get("root_path", ""))


def _invalid(error: RequestValidationError) -> ApiError:
    first = error.errors()[0]
    param = str(first["loc"][-1])
    if first["type"] == "missing":
        return ApiError(400, f"Missing required parameter: {param!r}", param=param, code="missing_required_parameter")
    return ApiError(400, f"Invalid {param!r}: {first['msg']}", param=param, code="invalid_value")
