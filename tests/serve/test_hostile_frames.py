"""Whatever comes over a WebSocket, the answer is no failure of the server, and the service goes on."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocketDisconnect
from subjects import CARD, LIMITS, EchoTranscriber

from serve.http_app import build_api
from serve.live_socket import LiveLimits
from serve.recognizer import LocalRecognizer

FAILED = 1011
relaxed = settings(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    # A session that hangs would be ended as idle: that is looked for.
    live = LiveLimits(idle_s=20.0, max_segment_s=2.0)
    with TestClient(build_api(LocalRecognizer(EchoTranscriber()), CARD, LIMITS, live=live)) as client:
        yield client


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)),
    max_leaves=8,
)
CONFIG = st.fixed_dictionaries(
    {}, optional={name: st.one_of(JSON, st.sampled_from([8000, 16000, 0, 1])) for name in
        ("sample_rate", "words", "max_alternatives", "partial_words", "pause_s", "phrase_list")},
)  # fmt: skip
VOSK = st.one_of(
    st.binary(max_size=3000),
    st.builds(bytes, st.integers(0, 200_000)),
    st.text(max_size=30),
    JSON.map(json.dumps),
    CONFIG.map(lambda config: json.dumps({"config": config})),
    st.sampled_from(['{"reset": 1}', '{"config": {"sample_rate": 16000}}', '{"eof": 0}']),
)
INPUT = st.fixed_dictionaries(
    {}, optional={
        "format": st.one_of(JSON, st.fixed_dictionaries({"type": st.sampled_from(["audio/pcm", "audio/pcmu"])},
                                                        optional={"rate": st.one_of(JSON, st.just(16000))})),
        "turn_detection": st.one_of(JSON, st.fixed_dictionaries({"type": st.just("server_vad")},
                                                                optional={"silence_duration_ms": JSON})),
        "transcription": st.one_of(JSON, st.just({"model": "jasper"})),
    },
)  # fmt: skip
EVENTS = st.one_of(
    st.text(max_size=30),
    st.binary(max_size=300),
    JSON.map(json.dumps),
    st.builds(
        lambda kind, fields: json.dumps({**fields, "type": kind}),
        st.sampled_from(["session.update", "input_audio_buffer.append", "input_audio_buffer.commit", "x"]),
        st.dictionaries(st.sampled_from(["session", "audio", "event_id"]), JSON, max_size=3),
    ),
    INPUT.map(lambda given: json.dumps({"type": "session.update", "session": {"audio": {"input": given}}})),
    st.builds(bytes, st.integers(0, 200_000)).map(
        lambda audio: json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(audio).decode()})
    ),
    st.just(json.dumps({"type": "input_audio_buffer.commit"})),
)


def is_config(message: str | bytes) -> bool:
    try:
        return "config" in json.loads(message) if isinstance(message, str) else False
    except (ValueError, TypeError):
        return False


def send(socket: Any, message: str | bytes) -> None:
    socket.send_text(message) if isinstance(message, str) else socket.send_bytes(message)


def check_vosk(client: TestClient, messages: list[str | bytes]) -> None:
    """Each message but a config has one answer, or the session ends with the reason."""
    with client.websocket_connect("/vosk") as socket:
        try:
            for message in [*messages, b"", '{"eof": 1}']:
                send(socket, message)
                if is_config(message):
                    continue
                reply = json.loads(socket.receive_text())
                assert {"partial", "text", "alternatives", "error"} & set(reply), reply
                if "error" in reply:
                    assert "Nothing came" not in reply["error"], "the session hung"
                    socket.receive_text()
        except WebSocketDisconnect as end:
            assert end.code != FAILED, end.reason


def check_realtime(client: TestClient, messages: list[str | bytes]) -> None:
    """After any events a `clear` is still answered."""
    with client.websocket_connect("/v1/realtime") as socket:
        for message in messages:
            send(socket, message)
        send(socket, '{"type": "input_audio_buffer.clear"}')
        kind = ""
        while kind != "input_audio_buffer.cleared":
            event = json.loads(socket.receive_text())
            kind = event["type"]
            assert event.get("error", {}).get("type") != "server_error", event


@given(st.lists(VOSK, max_size=6))
@settings(relaxed, max_examples=60)
def test_any_messages_to_the_vosk_socket_are_answered(client: TestClient, messages: list[str | bytes]) -> None:
    check_vosk(client, messages)


@given(st.lists(EVENTS, max_size=6))
@settings(relaxed, max_examples=60)
def test_any_events_to_the_realtime_socket_are_answered(client: TestClient, messages: list[str | bytes]) -> None:
    check_realtime(client, messages)


@pytest.mark.slow
@given(st.lists(VOSK, min_size=2, max_size=6), st.lists(EVENTS, min_size=2, max_size=6))
@settings(relaxed, max_examples=500)
def test_thousands_of_frames_are_answered(
    client: TestClient, vosk: list[str | bytes], events: list[str | bytes]
) -> None:
    check_vosk(client, vosk)
    check_realtime(client, events)


def test_the_service_goes_on_after_all_that(client: TestClient) -> None:
    assert client.get("/healthz").status_code == 200
    with client.websocket_connect("/vosk") as socket:
        socket.send_text('{"eof": 1}')
        assert json.loads(socket.receive_text()) == {"text": ""}
