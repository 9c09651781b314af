"""A stand-in for Grafana, which is in no package registry: refuses what Grafana 13 has no operation for.

The operations are those of Grafana 13.0's published API that a push may use; version checks of a save are Grafana's.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OPERATIONS = (
    ("GET", r"/api/health"),
    ("GET", r"/api/folders/(?P<uid>[^/]+)"),
    ("POST", r"/api/folders"),
    ("GET", r"/api/datasources/uid/(?P<uid>[^/]+)"),
    ("PUT", r"/api/datasources/uid/(?P<uid>[^/]+)"),
    ("POST", r"/api/datasources"),
    ("GET", r"/api/dashboards/uid/(?P<uid>[^/]+)"),
    ("POST", r"/api/dashboards/db"),
)
TOKEN = "glsa_right"


class GrafanaDouble:
    """What it holds, and what it was asked."""

    def __init__(self, version: str = "13.0.0") -> None:
        self.version = version
        self.url = ""
        self.folders: dict[str, dict[str, Any]] = {}
        self.sources: dict[str, dict[str, Any]] = {}
        self.dashboards: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []

    def answer(self, method: str, path: str, body: Any, token: str) -> tuple[int, Any]:
        self.requests.append((method, path))
        match = next((m for verb, p in OPERATIONS if verb == method and (m := re.fullmatch(p, path))), None)
        if match is None:
            return 404, {"message": "Not found"}
        if path == "/api/health":
            return 200, {"database": "ok", "version": self.version}
        if token != f"Bearer {TOKEN}":
            return 401, {"message": "Invalid API key"}
        if method == "GET":
            kept = {"folders": self.folders, "datasources": self.sources, "dashboards": self.dashboards}
            found = kept[path.split("/")[2]].get(match["uid"])
            return (200, found) if found else (404, {"message": "not found"})
        if path == "/api/folders":
            self.folders[body["uid"]] = body
            return 200, body
        if path == "/api/dashboards/db":
            return self._save(body)
        self.sources[body["uid"]] = body
        return 200, body

    def _save(self, body: Any) -> tuple[int, Any]:
        dashboard = body["dashboard"]
        assert body["folderUid"] in self.folders
        there = self.dashboards.get(dashboard["uid"])
        if there and not body["overwrite"] and dashboard.get("version") != there["dashboard"]["version"]:
            return 412, {"status": "version-mismatch", "message": "The dashboard has been changed by someone else"}
        version = there["dashboard"]["version"] + 1 if there else 1
        kept = {**dashboard, "id": len(self.dashboards) + 1, "version": version}
        self.dashboards[dashboard["uid"]] = {"dashboard": kept, "meta": {"folderUid": body["folderUid"]}}
        return 200, {"status": "success", "uid": dashboard["uid"], "version": version}


@contextmanager
def running(double: GrafanaDouble) -> Iterator[GrafanaDouble]:
    """The double behind a port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, reply = double.answer(self.command, self.path, body, self.headers.get("Authorization", ""))
            content = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = _answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    double.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()
