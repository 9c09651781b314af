"""Who may ask, and how much: API keys, size of bodies, request ids. Plain ASGI, so that streams stay streams."""

import hashlib
import hmac
import os
import re
import uuid
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jasper_ray.errors import ConfigError
from serve.errors import ApiError, error_reply, path_of

KEYS_VARIABLE = "JASPER_API_KEYS"
PROTECTED = ("/v1", "/v2")
OPEN = ("/v2/health/",)
SUBPROTOCOL_KEY = "openai-insecure-api-key."
"""How browsers, which cannot set headers of a WebSocket, send a key to OpenAI."""
REQUEST_ID = re.compile(r"[\w.:-]{1,128}")
POLICY_VIOLATION = 1008


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def key_digests(file: str | None) -> tuple[str, ...]:
    """Digests of the keys in `JASPER_API_KEYS` (comma-separated) and in a file (one a line); none: anyone may ask.

    Raises:
        ConfigError: The file cannot be read, or holds no key.
    """
    keys = os.environ.get(KEYS_VARIABLE, "").split(",")
    if file is not None:
        try:
            lines = Path(file).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"api_keys_file={file!r} cannot be read: {error}") from error
        lines = [line for line in lines if line.strip() and not line.startswith("#")]
        if not lines:
            raise ConfigError(f"api_keys_file={file!r} holds no key: one a line, or leave the setting out")
        keys += lines
    return tuple(digest(key.strip()) for key in keys if key.strip())


class RequireKey:
    """Refuses requests to the APIs without one of the keys; without keys it refuses none."""

    def __init__(self, app: ASGIApp, *, digests: tuple[str, ...]) -> None:
        self._app = app
        self._digests = [one.encode() for one in digests]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        path = path_of(scope)
        if not self._digests or scope["type"] == "lifespan" or not _is_protected(scope["type"], path):
            return await self._app(scope, receive, send)
        key = _key_of(scope)
        if key is not None and self._is_known(key):
            return await self._app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": "API key refused"})
        said = "Incorrect API key provided" if key else "You didn't provide an API key"
        error = ApiError(
            401, f"{said}: send it as `Authorization: Bearer KEY`", code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )  # fmt: skip
        return await error_reply(path, error)(scope, receive, send)

    def _is_known(self, key: str) -> bool:
        asked = digest(key).encode()
        # All are compared, each in constant time: how long it takes tells nothing about a key.
        return sum([hmac.compare_digest(asked, known) for known in self._digests]) > 0


class LimitBody:
    """Refuses bodies above a size: by their header at once, otherwise as soon as so much has come."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, message: str) -> None:
        self._app = app
        self._max_bytes, self._message = max_bytes, message

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        error = ApiError(413, self._message, param="file", code="content_too_large")
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > self._max_bytes:
            return await error_reply(path_of(scope), error)(scope, receive, send)
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise error
            return message

        return await self._app(scope, counted, send)


class RequestIds:
    """Gives each reply an `x-request-id`: the client's own, or a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault("x-request-id", request_id)
            await send(message)

        return await self._app(scope, receive, named)


def _is_protected(kind: str, path: str) -> bool:
    if kind == "websocket":
        return True
    return path.startswith(PROTECTED) and not path.startswith(OPEN)


def _key_of(scope: Scope) -> str | None:
    headers = Headers(scope=scope)
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    for protocol in headers.get("sec-websocket-protocol", "").split(","):
        if protocol.strip().startswith(SUBPROTOCOL_KEY):
            return protocol.strip().removeprefix(SUBPROTOCOL_KEY)
    return None
