from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from subjects import BUSY, CARD, FAILS, LIMITS, Echo, sound

from serve.http_app import build_api


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(build_api(Echo(), CARD, LIMITS), raise_server_exceptions=False) as client:
        yield client


def post(client: TestClient, content: bytes | None = None, **fields: Any) -> Any:
    files = {"file": ("a.wav", sound() if content is None else content)}
    return client.post("/v1/audio/transcriptions", files=files, data={"model": "jasper", **fields})


def error_of(reply: Any, status: int) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    assert reply.json().keys() == {"error"}
    error: dict[str, Any] = reply.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


def test_json_is_the_default_and_tells_the_seconds(client: TestClient) -> None:
    reply = post(client)
    assert reply.json() == {"text": "16000 samples", "usage": {"type": "duration", "seconds": 1.0}}


def test_text_is_a_plain_line(client: TestClient) -> None:
    reply = post(client, response_format="text")
    assert reply.text == "16000 samples\n" and reply.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("rate_hz", "channels", "container"), [(8000, 2, "FLAC"), (22050, 1, "OGG"), (44100, 2, "WAV")]
)
def test_any_rate_channels_and_container_are_taken(
    client: TestClient, rate_hz: int, channels: int, container: str
) -> None:
    reply = post(client, sound(0.25, rate_hz, channels, container))
    assert reply.json()["text"] == "4000 samples"


def test_parameters_without_a_meaning_here_are_accepted(client: TestClient) -> None:
    assert post(client, language="en", prompt="x", temperature="0.5").status_code == 200


def test_bytes_that_are_no_audio_are_a_400_that_says_what_to_send(client: TestClient) -> None:
    error = error_of(post(client, b"not audio at all"), 400)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "file", "invalid_audio")
    assert "a.wav cannot be read as audio" in error["message"] and "WAV, FLAC, MP3" in error["message"]


@pytest.mark.parametrize("content", [b"", sound()[:20], sound()[:2000], sound(0.0)])
def test_broken_files_are_a_400(client: TestClient, content: bytes) -> None:
    assert error_of(post(client, content), 400)["code"] == "invalid_audio"


def test_too_large_is_413_and_too_long_is_400(client: TestClient) -> None:
    assert "Maximum content size limit (100000) exceeded" in error_of(post(client, bytes(100_001)), 413)["message"]
    error = error_of(post(client, sound(2.5)), 400)
    assert error["code"] == "audio_too_long" and "lasts 2.5 s, the limit is 2 s" in error["message"]


def test_an_unknown_model_is_404(client: TestClient) -> None:
    error = error_of(post(client, model="whisper-1"), 404)
    assert error["code"] == "model_not_found" and "there is 'jasper'" in error["message"]


def test_missing_fields_are_named(client: TestClient) -> None:
    reply = client.post("/v1/audio/transcriptions", files={"file": ("a.wav", sound())})
    assert error_of(reply, 400)["param"] == "model"
    reply = client.post("/v1/audio/transcriptions", data={"model": "jasper"})
    assert error_of(reply, 400)["param"] == "file"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"stream": "perhaps"}, "stream"),
        ({"stream": "true", "response_format": "srt"}, "stream"),
        ({"temperature": "2"}, "temperature"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
        ({"timestamp_granularities[]": "letter", "response_format": "verbose_json"}, "timestamp_granularities"),
        ({"include[]": "everything"}, "include"),
        ({"include[]": "logprobs", "response_format": "text"}, "include"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(client: TestClient, fields: dict[str, str], param: str) -> None:
    assert error_of(post(client, **fields), 400)["param"] == param


def test_models_and_health_describe_the_bundle(client: TestClient) -> None:
    listed = client.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["jasper"]
    assert client.get("/v1/models/jasper").json()["owned_by"] == "jasper_ray"
    error_of(client.get("/v1/models/other"), 404)
    health = {"status": "ok", "model": "jasper", "model_s": 0.01, "run": "r", "step": 7, "wer": 0.1}
    assert client.get("/healthz").json() == health


def test_unknown_paths_and_methods_answer_in_the_same_shape(client: TestClient) -> None:
    assert "/v1/nothing" in error_of(client.get("/v1/nothing"), 404)["message"]
    error_of(client.get("/v1/audio/transcriptions"), 405)


def test_a_failure_inside_is_a_500_in_the_same_shape(client: TestClient) -> None:
    assert error_of(post(client, sound(FAILS / 16000)), 500)["type"] == "server_error"


def test_a_busy_service_is_a_429_that_says_when_to_come_back(client: TestClient) -> None:
    reply = post(client, sound(BUSY / 16000))
    error = error_of(reply, 429)
    assert error["code"] == "rate_limit_exceeded" and "wait already" in error["message"]
    assert (reply.headers["retry-after"], reply.headers["retry-after-ms"]) == ("1", "20")


def test_a_model_that_gives_no_transcript_is_not_healthy() -> None:
    class Broken(Echo):
        async def check(self) -> float:
            raise RuntimeError("no")

    with TestClient(build_api(Broken(), CARD, LIMITS)) as client:
        reply = client.get("/healthz")
    assert reply.status_code == 503 and reply.json()["status"] == "failing"


def test_the_openapi_document_names_every_field(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    body = document["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]
    form = body["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["file", "model"]
    assert {"response_format", "stream", "timestamp_granularities[]", "include[]", "hotwords"} <= form[
        "properties"
    ].keys()
