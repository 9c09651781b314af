"""OpenAI's own client against a real server."""

from collections.abc import Iterator

import openai
import pytest
from subjects import BUSY, CARD, FAILS, LIMITS, Echo, listening, sound

from serve.http_app import build_api

AUDIO = ("a.wav", sound(), "audio/wav")


@pytest.fixture(scope="module")
def recognizer() -> Echo:
    return Echo()


@pytest.fixture(scope="module")
def client(recognizer: Echo) -> Iterator[openai.OpenAI]:
    with listening(build_api(recognizer, CARD, LIMITS)) as address:
        yield openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0)


def test_json_with_the_probabilities_of_its_tokens(client: openai.OpenAI) -> None:
    reply = client.audio.transcriptions.create(file=AUDIO, model="jasper", include=["logprobs"])
    assert reply.text == "16000 samples" and reply.usage is not None and reply.usage.seconds == 1.0
    assert reply.logprobs is not None
    assert "".join(token.token or "" for token in reply.logprobs) == reply.text
    assert reply.logprobs[0].logprob == pytest.approx(-0.693, abs=1e-3)
    assert bytes(int(byte) for byte in reply.logprobs[1].bytes or []) == b" samples"


def test_text_srt_and_vtt_are_strings(client: openai.OpenAI) -> None:
    def create(form: openai.types.AudioResponseFormat) -> str:
        return str(client.audio.transcriptions.create(file=AUDIO, model="jasper", response_format=form))

    assert create("text") == "16000 samples\n"
    assert create("srt") == ("1\n00:00:00,000 --> 00:00:00,450\n16000\n\n2\n00:00:01,500 --> 00:00:02,000\nsamples\n\n")
    assert create("vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:00.450\n16000\n\n00:00:01.500 --> 00:00:02.000\nsamples\n\n"
    )


def test_verbose_json_has_the_times_that_were_asked_for(client: openai.OpenAI) -> None:
    def create(*granularities: str) -> openai.types.audio.TranscriptionVerbose:
        return client.audio.transcriptions.create(
            file=AUDIO, model="jasper", response_format="verbose_json",
            timestamp_granularities=list(granularities) or openai.omit,  # type: ignore[arg-type]
        )  # fmt: skip

    words = create("word")
    assert words.segments is None and words.words is not None
    assert [(word.word, word.start, word.end) for word in words.words] == [("16000", 0, 0.45), ("samples", 1.5, 2.0)]
    assert words.words[1].confidence == 0.25  # type: ignore[attr-defined]
    for segments in (create("segment"), create()):
        assert segments.words is None and segments.segments is not None
        assert [segment.text for segment in segments.segments] == ["16000", "samples"]
        assert segments.segments[1].avg_logprob == pytest.approx(-1.386, abs=1e-3)
    both = create("word", "segment")
    assert both.words is not None and both.segments is not None
    assert (both.duration, both.language, both.text) == (1.0, "english", "16000 samples")


def test_a_stream_brings_deltas_that_add_up_to_the_text(client: openai.OpenAI) -> None:
    stream = client.audio.transcriptions.create(file=AUDIO, model="jasper", stream=True, include=["logprobs"])
    events = list(stream)
    deltas = [event for event in events if event.type == "transcript.text.delta"]
    assert "".join(event.delta for event in deltas) == "16000 samples" and len(deltas) == 2
    assert "".join(token.token or "" for event in deltas for token in event.logprobs or []) == "16000 samples"
    done = events[-1]
    assert done.type == "transcript.text.done" and done.text == "16000 samples"
    assert done.usage is not None and done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens


def test_errors_are_the_clients_own_exceptions(client: openai.OpenAI) -> None:
    def create(content: bytes = AUDIO[1], model: str = "jasper") -> None:
        client.audio.transcriptions.create(file=("a.wav", content), model=model)

    with pytest.raises(openai.NotFoundError, match="does not exist"):
        create(model="whisper-1")
    with pytest.raises(openai.BadRequestError, match="cannot be read as audio") as caught:
        create(b"x")
    assert (caught.value.code, caught.value.param, caught.value.type) == (
        "invalid_audio", "file", "invalid_request_error"
    )  # fmt: skip
    assert caught.value.request_id
    with pytest.raises(openai.APIStatusError) as too_large:
        create(bytes(200_000))
    assert too_large.value.status_code == 413
    with pytest.raises(openai.InternalServerError):
        create(sound(FAILS / 16000))
    with pytest.raises(openai.RateLimitError):
        create(sound(BUSY / 16000))


def test_a_busy_service_is_asked_again_by_the_client(client: openai.OpenAI, recognizer: Echo) -> None:
    recognizer.num_busy = 2
    audio = ("a.wav", sound(BUSY / 16000))
    patient = client.with_options(max_retries=2)
    assert patient.audio.transcriptions.create(file=audio, model="jasper").text == f"{BUSY} samples"
    assert recognizer.num_busy == 0


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["jasper"]
    assert client.models.retrieve("jasper").owned_by == "jasper_ray"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
