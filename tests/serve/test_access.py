import asyncio
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from fastapi.testclient import TestClient
from starlette.types import Message, Scope
from subjects import CARD, LIMITS, Echo, listening, sound

from jasper_ray.errors import ConfigError
from serve.access import digest, key_digests
from serve.http_app import build_api


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(build_api(Echo(), CARD, LIMITS, key_digests=(digest("one"), digest("two")))) as client:
        yield client


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer three"}, {"Authorization": "Basic one"}])
def test_without_a_known_key_nothing_is_answered(client: TestClient, headers: dict[str, str]) -> None:
    for path in ("/v1/models", "/v1/audio/transcriptions"):
        reply = client.get(path, headers=headers)
        assert reply.status_code == 401 and reply.json()["error"]["code"] == "invalid_api_key"
        assert reply.headers["x-request-id"]
    assert isinstance(client.get("/v2/models/jasper", headers=headers).json()["error"], str)


def test_each_of_the_keys_opens_and_health_needs_none(client: TestClient) -> None:
    for key in ("one", "two"):
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert client.get("/healthz").status_code == 200


def test_openais_client_says_that_its_key_was_refused() -> None:
    with listening(build_api(Echo(), CARD, LIMITS, key_digests=(digest("one"),))) as address:
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
            openai.OpenAI(base_url=f"http://{address}/v1", api_key="x").models.list()
        client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="one")
        audio = ("a.wav", sound())
        assert client.audio.transcriptions.create(file=audio, model="jasper").text == "16000 samples"


def test_keys_come_from_the_environment_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the team\nthree\n\n four \n")
    monkeypatch.setenv("JASPER_API_KEYS", "one, two,")
    assert key_digests(str(file)) == tuple(digest(key) for key in ("one", "two", "three", "four"))
    monkeypatch.delenv("JASPER_API_KEYS")
    assert key_digests(None) == ()


def test_a_file_without_keys_does_not_open_the_service_to_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        key_digests(str(tmp_path / "none"))
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(ConfigError, match="holds no key"):
        key_digests(str(tmp_path / "empty"))


def test_a_request_keeps_the_id_that_it_came_with(client: TestClient) -> None:
    assert client.get("/healthz", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    odd = client.get("/healthz", headers={"x-request-id": "a b"}).headers["x-request-id"]
    assert odd != "a b" and odd != client.get("/healthz").headers["x-request-id"]


def test_a_body_without_a_stated_length_ends_at_the_limit() -> None:
    received, sent = 0, []

    async def endless() -> Message:
        nonlocal received
        received += 1
        assert received < 100, "the application goes on reading"
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' if received == 1 else b""
        return {"type": "http.request", "body": head + bytes(10_000), "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    scope: Scope = {"type": "http", "method": "POST", "path": "/v1/audio/transcriptions", "headers": headers}
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "server": ("x", 80)}
    asyncio.run(build_api(Echo(), CARD, LIMITS)(scope, endless, send))
    assert sent[0]["status"] == 413 and b"content_too_large" in sent[1]["body"]


def test_a_client_that_leaves_during_its_upload_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[Message] = []

    async def leaving() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    for path in ("/v1/audio/transcriptions", "/v2/models/jasper/infer"):
        scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
        scope |= {"http_version": "1.1", "scheme": "http", "server": ("x", 80)}
        asyncio.run(build_api(Echo(), CARD, LIMITS)(scope, leaving, send))
    assert sent == [] and "failed" not in caplog.text
