"""The page at `/`: plain files, and a policy that lets the browser load nothing from elsewhere."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response

FOLDER = Path(__file__).parent / "page"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self' blob:; "
        "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def page_routes() -> APIRouter:
    """The routes `/` and `/page/…`; the files are read once."""
    routes = APIRouter(include_in_schema=False)
    for file in sorted(FOLDER.iterdir()):
        if file.suffix in MEDIA_TYPES:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            routes.add_api_route(path, _answer_with(file), methods=["GET", "HEAD"], response_class=Response)
    return routes


def _answer_with(file: Path) -> Callable[[], Awaitable[Response]]:
    content, kind = file.read_bytes(), MEDIA_TYPES[file.suffix]

    async def answer() -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return answer
