"""One utterance, one transcript: whoever asks, by whichever API, in whatever company."""

import asyncio
import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import torch
import tritonclient.http as triton
import websockets
from subjects import listening

from jasper_ray.audio.decode import decode_audio
from jasper_ray.config.data import CorpusConfig, LoaderConfig, PreparationConfig
from jasper_ray.config.speech import ENGLISH_ALPHABET
from jasper_ray.data.manifest import read_manifest
from jasper_ray.data.preparation import prepare_dataset
from jasper_ray.inference.transcriber import Transcriber
from jasper_ray.model.bundle import load_bundle
from jasper_ray.training.evaluation_pieces import evaluate_bundle
from serve.http_app import build_api
from serve.live_socket import LiveLimits
from serve.recognizer import LocalRecognizer, ModelCard
from serve.uploads import Limits

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
CONCURRENCY = 12
COUNTS = {"fsdd": 130, "speechocean762": 55, "librispeech": 15}
LIMITS = Limits(25 * 2**20, 600.0)


@dataclass(frozen=True)
class Utterance:
    """A file, and its samples as they are in it."""

    encoded: bytes
    pcm16: bytes
    rate_hz: int


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """That of JASPER_DIGITS_BUNDLE, or one trained for a few minutes."""
    if given := os.environ.get("JASPER_DIGITS_BUNDLE"):
        return given
    folder = tmp_path_factory.mktemp("digits")
    settings = ["training.epochs=4", "schedule.hold_epochs=1", f"output={folder}/run"]
    paths = [f"data.{part}.0.path={folder}/{part}" for part in ("train", "evaluation")]
    command = [sys.executable, "-m", "jobs.train", "jobs/configs/digits_cpu.yaml", *settings, *paths]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=1800)
    return str(folder / "run" / "bundle")


@pytest.fixture(scope="module")
def speech(speech_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Utterance], Path]:
    """200 real utterances of 0.2 to 30 s, and the corpus of them."""
    rng, rows = np.random.default_rng(5), []
    for name, count in COUNTS.items():
        lines = (speech_data / name / "manifest.jsonl").read_text().splitlines()
        for index in rng.choice(len(lines), count, replace=False):
            row = json.loads(lines[index])
            rows.append({"audio": str(speech_data / name / row["audio"]), "text": row["text"], "id": f"{len(rows):03}"})
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    utterances = []
    for row in rows:
        encoded = Path(row["audio"]).read_bytes()
        samples, rate_hz = soundfile.read(io.BytesIO(encoded), dtype="int16")
        utterances.append(Utterance(encoded, samples.astype("<i2").tobytes(), rate_hz))
    return utterances, folder


@pytest.fixture(scope="module")
def evaluated(bundle: str, speech: tuple[list[Utterance], Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What `jobs.evaluate` says to the utterances."""
    target = str(tmp_path_factory.mktemp("data") / "set")
    corpus = CorpusConfig(source=str(speech[1]), format="jsonl")
    prepare_dataset([corpus], target, alphabet=ENGLISH_ALPHABET, config=PreparationConfig())
    manifest = read_manifest(target)
    options = {"loader": LoaderConfig(), "device": torch.device("cpu"), "seconds_per_batch": 100.0}
    evaluation = evaluate_bundle(load_bundle(bundle), manifest, **options)  # type: ignore[arg-type]
    by_id = {manifest.ids[row]: text for row, text in evaluation.transcripts.items()}
    assert len(by_id) == len(speech[0])
    return [by_id[name] for name in sorted(by_id)]


@pytest.fixture(scope="module")
def address(bundle: str) -> Iterator[str]:
    transcriber = Transcriber.from_bundle(bundle)
    card = ModelCard("jasper", 16000, 0, {}, alphabet=transcriber.config.text.alphabet)
    with listening(build_api(LocalRecognizer(transcriber), card, LIMITS, live=LiveLimits(max_segment_s=60))) as address:
        yield address


async def post(client: httpx.AsyncClient, utterance: Utterance, **fields: str) -> httpx.Response:
    files, data = {"file": ("a.flac", utterance.encoded)}, {"model": "jasper", **fields}
    reply = await client.post("/v1/audio/transcriptions", files=files, data=data)
    assert reply.status_code == 200, reply.text
    return reply


async def as_json(client: httpx.AsyncClient, utterance: Utterance) -> str:
    return str((await post(client, utterance)).json()["text"])


async def as_words(client: httpx.AsyncClient, utterance: Utterance) -> str:
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    return " ".join(word["word"] for word in (await post(client, utterance, **fields)).json()["words"])


async def as_events(client: httpx.AsyncClient, utterance: Utterance) -> str:
    lines = (await post(client, utterance, stream="true")).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    return "".join(event["delta"] for event in events[:-1])


async def as_wav_tensor(client: httpx.AsyncClient, utterance: Utterance) -> str:
    headers = {"Inference-Header-Content-Length": "0"}
    reply = await client.post("/v2/models/jasper/infer", content=utterance.encoded, headers=headers)
    tensor = reply.content[int(reply.headers["inference-header-content-length"]) :]
    return tensor[4 : 4 + int.from_bytes(tensor[:4], "little")].decode()


async def as_vosk(client: httpx.AsyncClient, utterance: Utterance) -> str:
    piece = utterance.rate_hz // 5 * 2
    async with websockets.connect(f"ws://{client.base_url.netloc.decode()}/vosk", ping_timeout=None) as socket:
        await socket.send(json.dumps({"config": {"sample_rate": utterance.rate_hz, "pause_s": 0}}))
        for start in range(0, len(utterance.pcm16), piece):
            await socket.send(utterance.pcm16[start : start + piece])
            await socket.recv()
        await socket.send('{"eof" : 1}')
        return str(json.loads(await socket.recv())["text"])


async def as_realtime(client: httpx.AsyncClient, utterance: Utterance) -> str:
    url = f"ws://{client.base_url.netloc.decode()}/v1/realtime?intent=transcription"
    given = {"format": {"type": "audio/pcm", "rate": utterance.rate_hz}, "turn_detection": None}
    async with websockets.connect(url, ping_timeout=None) as socket:
        session = {"type": "transcription", "audio": {"input": given}}
        await socket.send(json.dumps({"type": "session.update", "session": session}))
        for start in range(0, len(utterance.pcm16), 9000):
            audio = base64.b64encode(utterance.pcm16[start : start + 9000]).decode()
            await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
        await socket.send('{"type": "input_audio_buffer.commit"}')
        while not (event := json.loads(await socket.recv()))["type"].endswith(".completed"):
            assert event["type"] != "error", event
        return str(event["transcript"])


APIS = [as_json, as_words, as_events, as_wav_tensor, as_vosk, as_realtime]
Api = Callable[[httpx.AsyncClient, Utterance], Awaitable[str]]


def differing(texts: Sequence[str], evaluated: Sequence[str]) -> dict[int, tuple[str, str]]:
    pairs = enumerate(zip((" ".join(text.split()) for text in texts), evaluated, strict=True))
    return {number: (text, wanted) for number, (text, wanted) in pairs if text != " ".join(wanted.split())}


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("company", ["alone", "random"])
def test_every_api_says_what_the_evaluation_says(
    address: str, speech: tuple[list[Utterance], Path], evaluated: list[str], api: Api, company: str
) -> None:
    utterances = speech[0]
    concurrency = 1 if company == "alone" else CONCURRENCY

    async def all_of_them() -> list[str]:
        gate, texts = asyncio.Semaphore(concurrency), [""] * len(utterances)
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=300) as client:

            async def one(number: int) -> None:
                async with gate:
                    texts[number] = await api(client, utterances[number])

            await asyncio.gather(*map(one, np.random.default_rng(len(company)).permutation(len(utterances)).tolist()))
        return texts

    assert differing(asyncio.run(all_of_them()), evaluated) == {}
    assert len(set(evaluated)) > 60


def test_padding_of_any_length_says_the_same(
    address: str, speech: tuple[list[Utterance], Path], evaluated: list[str]
) -> None:
    rng, texts = np.random.default_rng(1), [""] * len(evaluated)
    order = rng.permutation(len(evaluated))
    client = triton.InferenceServerClient(address, network_timeout=300, connection_timeout=300)
    while len(order):
        chosen, order = np.split(order, [rng.integers(1, 24)])
        waveforms = [decode_audio(speech[0][number].encoded, sample_rate_hz=16000) for number in chosen]
        width = max(map(len, waveforms)) + int(rng.integers(0, 50_000))
        audio = rng.normal(scale=0.1, size=(len(chosen), width)).astype(np.float32)  # behind an end there is noise
        for row, waveform in enumerate(waveforms):
            audio[row, : len(waveform)] = waveform
        inputs = [
            triton.InferInput("AUDIO", list(audio.shape), "FP32"),
            triton.InferInput("AUDIO_LENGTH", [len(chosen), 1], "INT32"),
        ]
        inputs[0].set_data_from_numpy(audio)
        inputs[1].set_data_from_numpy(np.array([[len(waveform)] for waveform in waveforms], np.int32))
        reply: Any = client.infer("jasper", inputs).as_numpy("TRANSCRIPT")
        for number, text in zip(chosen, reply[:, 0], strict=True):
            texts[number] = text.decode()
    assert differing(texts, evaluated) == {}
