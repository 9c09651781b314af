"""Whatever is sent, the answer is no 5xx, and the service goes on."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
import schemathesis
import soundfile
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from subjects import CARD, LIMITS, EchoTranscriber

from serve.http_app import build_api
from serve.recognizer import LocalRecognizer

schema = schemathesis.openapi.from_asgi("/openapi.json", build_api(LocalRecognizer(EchoTranscriber()), CARD, LIMITS))
relaxed = settings(deadline=None, suppress_health_check=list(HealthCheck))


@schema.parametrize()
@settings(relaxed, max_examples=25)
def test_requests_made_from_the_openapi_document_find_no_server_error(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=[not_a_server_error])


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(build_api(LocalRecognizer(EchoTranscriber()), CARD, LIMITS)) as client:
        yield client


def encoded(container: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    samples = np.random.default_rng(0).normal(scale=0.1, size=4000)
    soundfile.write(buffer, samples, 16000, format=container, subtype=subtype)
    return buffer.getvalue()


SOUNDS = [encoded("WAV"), encoded("WAV", "FLOAT"), encoded("FLAC"), encoded("OGG", "VORBIS"), encoded("MP3")]


@st.composite
def damaged_sounds(draw: st.DrawFn) -> bytes:
    """A sound with bytes exchanged, cut out, put in and cut off."""
    content = bytearray(draw(st.sampled_from(SOUNDS)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.one_of(st.integers(0, 60), st.integers(0, max(len(content) - 1, 0))))
        match draw(st.sampled_from(["exchange", "remove", "insert", "cut"])):
            case "exchange":
                content[place : place + 4] = draw(st.binary(min_size=1, max_size=4))
            case "remove":
                del content[place : place + draw(st.integers(1, 500))]
            case "insert":
                content[place:place] = draw(st.binary(min_size=1, max_size=50))
            case "cut":
                del content[max(place, 8) :]
    return bytes(content)


UPLOADS = st.one_of(st.binary(max_size=2000), damaged_sounds())
FIELDS = st.dictionaries(
    st.sampled_from(["model", "response_format", "stream", "temperature", "timestamp_granularities[]", "include[]"]),
    st.one_of(st.sampled_from(["jasper", "srt", "verbose_json", "true", "word", "logprobs"]), st.text(max_size=20)),
)


def check_uploads(client: TestClient, content: bytes, fields: dict[str, str], name: str) -> None:
    reply = client.post("/v1/audio/transcriptions", files={"file": (name, content)}, data={"model": "jasper", **fields})
    assert reply.status_code < 500, (reply.status_code, reply.text)
    reply = client.post("/v2/models/jasper/infer", content=content, headers={"Inference-Header-Content-Length": "0"})
    assert reply.status_code < 500, (reply.status_code, reply.text)


@given(UPLOADS, FIELDS, st.text(max_size=10))
@settings(relaxed, max_examples=150)
def test_any_upload_is_answered(client: TestClient, content: bytes, fields: dict[str, str], name: str) -> None:
    check_uploads(client, content, fields, name)


@pytest.mark.slow
@given(UPLOADS, FIELDS, st.text(max_size=10))
@settings(relaxed, max_examples=2000)
def test_thousands_of_uploads_are_answered(
    client: TestClient, content: bytes, fields: dict[str, str], name: str
) -> None:
    check_uploads(client, content, fields, name)


@given(st.binary(max_size=500), st.text("abc-=;\"' /", max_size=40))
@settings(relaxed, max_examples=100)
def test_any_body_is_answered(client: TestClient, content: bytes, boundary: str) -> None:
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    framed = b"--" + boundary.encode() + b"\r\n" + content
    for body in (content, framed):
        assert client.post("/v1/audio/transcriptions", content=body, headers=headers).status_code < 500


def test_the_service_goes_on_after_all_that(client: TestClient) -> None:
    files = {"file": ("a.wav", SOUNDS[0])}
    reply = client.post("/v1/audio/transcriptions", files=files, data={"model": "jasper"})
    assert reply.json()["text"] == "4000 samples" and client.get("/healthz").status_code == 200
