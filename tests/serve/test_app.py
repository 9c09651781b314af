import asyncio
import concurrent.futures
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import soundfile
import torch
import websockets
import yaml
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.config.speech import FeatureConfig, TextConfig
from jasper_ray.errors import BundleError, CapacityError
from jasper_ray.inference.transcriber import Transcriber
from jasper_ray.model.bundle import BundleConfig, build_model, save_bundle
from jobs.serve import serving
from serve.app import DEPLOYMENT, ServeArgs, Tuning, build

pytestmark = pytest.mark.ray

ARGS = ServeArgs(bundle="", max_batch_size=8, cpus_per_replica=0.5)

CONFIG = BundleConfig(
    features=FeatureConfig(num_mels=16),
    text=TextConfig(alphabet=" abcdefg"),
    model=ModelConfig(
        preset=None, blocks=(BlockConfig(filters=24, kernel=11, stride=2), BlockConfig(filters=24, kernel=9))
    ),
    training={"run": "r", "step": 1, "wer": 0.5},
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bundle")
    torch.manual_seed(1)
    model = build_model(CONFIG.model, CONFIG.features, CONFIG.text)
    save_bundle(folder, config=CONFIG, weights=model.state_dict(), plain_weights=None)
    return str(folder)


@pytest.fixture(scope="module")
def url(bundle: str) -> Iterator[str]:
    haproxy = "JASPER_TEST_HAPROXY" in os.environ  # set by test_haproxy.py, which runs these tests once more
    with serving(ARGS.model_copy(update={"bundle": bundle}), port=0, haproxy=haproxy) as url:
        yield url


def wav(waveform: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, 16000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def test_a_bad_upload_is_a_400_and_harms_none_of_its_neighbours(url: str, bundle: str) -> None:
    rng = np.random.default_rng(2)
    waveforms = [rng.normal(scale=0.1, size=n).astype(np.float32) for n in rng.integers(3000, 40000, size=16)]
    expected = [
        " ".join(transcript.text.split()) for transcript in Transcriber.from_bundle(bundle).transcribe(waveforms)
    ]
    assert len(set(expected)) > 8
    uploads = [item for waveform in waveforms for item in (wav(waveform), b"no audio")]

    def send(content: bytes) -> httpx.Response:
        files, data = {"file": ("a.wav", content)}, {"model": "jasper"}
        return httpx.post(f"{url}/v1/audio/transcriptions", files=files, data=data, timeout=60)

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        replies = list(threads.map(send, uploads))
    assert [reply.status_code for reply in replies] == [200, 400] * 16
    assert [reply.json()["text"] for reply in replies[::2]] == expected
    assert replies[1].json()["error"]["code"] == "invalid_audio"


def test_openais_own_client_is_served(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["jasper"]
    audio = ("a.wav", wav(np.zeros(16000, np.float32) + 0.01), "audio/wav")
    assert isinstance(client.audio.transcriptions.create(file=audio, model="jasper").text, str)
    assert client.audio.transcriptions.create(file=audio, model="jasper", response_format="text").endswith("\n")
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.audio.transcriptions.create(file=audio, model="whisper-1")
    with pytest.raises(openai.BadRequestError, match="cannot be read as audio"):
        client.audio.transcriptions.create(file=("a.wav", b"x"), model="jasper")


def test_a_live_session_says_what_the_file_says(url: str, bundle: str) -> None:
    waveform = np.round(np.random.default_rng(3).normal(scale=3000, size=48000)).clip(-32768, 32767)
    expected = Transcriber.from_bundle(bundle).transcribe([(waveform / 32768).astype(np.float32)])[0].text
    expected = " ".join(expected.split())
    audio = waveform.astype("<i2").tobytes()

    async def session(number: int) -> str:
        async with websockets.connect(url.replace("http", "ws") + ("" if number % 2 else "/vosk")) as socket:
            await socket.send('{"config": {"sample_rate": 16000, "pause_s": 0}}')
            for start in range(0, len(audio), 6400):
                await socket.send(audio[start : start + 6400])
                assert "partial" in json.loads(await asyncio.wait_for(socket.recv(), 60))
            await socket.send('{"eof" : 1}')
            return str(json.loads(await asyncio.wait_for(socket.recv(), 60))["text"])

    async def several() -> list[str]:
        return await asyncio.gather(*map(session, range(4)))

    assert asyncio.run(several()) == [expected] * 4


def test_health_tells_the_bundle(url: str) -> None:
    reply = httpx.get(f"{url}/healthz").json()
    assert reply.pop("model_s") > 0
    assert reply == {"status": "ok", "model": "jasper", "run": "r", "step": 1, "wer": 0.5}


def test_a_port_that_is_taken_is_said_at_once(url: str, bundle: str) -> None:
    port = int(url.rpartition(":")[2])
    with (
        pytest.raises(CapacityError, match=f"cannot listen on 127.0.0.1:{port}"),
        serving(ServeArgs(bundle=bundle), port=port),
    ):
        pass


def test_replicas_that_the_cluster_cannot_hold_are_refused_at_once(url: str, bundle: str) -> None:
    with (
        pytest.raises(CapacityError, match=r"asks for 99 replicas of 1 CPU each, the cluster holds \d+ of them"),
        serving(ServeArgs(bundle=bundle, num_replicas=99), port=0),
    ):
        pass


def test_replicas_find_a_bundle_named_by_a_relative_path(bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(bundle).parent)
    assert build(ServeArgs(bundle=Path(bundle).name))._bound_deployment.init_args[0].bundle == bundle


def test_a_canary_that_hears_otherwise_is_refused(bundle: str, tmp_path: Path) -> None:
    other = CONFIG.model_copy(update={"text": TextConfig(alphabet=" abc")})
    model = build_model(other.model, other.features, other.text)
    save_bundle(tmp_path / "other", config=other, weights=model.state_dict(), plain_weights=None)
    with pytest.raises(BundleError, match="serve it as an application of its own"):
        build(ServeArgs(bundle=bundle, canary_bundle=str(tmp_path / "other")))


def test_a_missing_bundle_is_said_before_replicas_start(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        build(ServeArgs(bundle=str(tmp_path)))


@pytest.mark.parametrize("name", ["local", "production"])
def test_the_serve_configs_name_what_there_is(name: str) -> None:
    content = yaml.safe_load(Path(f"serve/{name}.yaml").read_text())
    config = ServeDeploySchema.model_validate(content)
    for application in config.applications:
        assert application.import_path == "serve.app:build"
        ServeArgs.model_validate(application.args)
        for deployment in application.deployments:
            assert deployment.name == DEPLOYMENT
            Tuning.model_validate(deployment.user_config)


def test_a_config_that_is_deployed_again_changes_limits_without_a_restart(url: str, bundle: str) -> None:
    aside = f"{url}/aside"

    def status() -> int:
        files, data = {"file": ("a.wav", wav(np.zeros(16000, np.float32) + 0.01))}, {"model": "jasper"}
        return httpx.post(f"{aside}/v1/audio/transcriptions", files=files, data=data, timeout=60).status_code

    def started() -> int:
        return int(httpx.get(f"{aside}/v1/models/jasper").json()["created"])

    def deploy(**tuning: float) -> None:
        application = {
            "name": "aside",
            "route_prefix": "/aside",
            "import_path": "serve.app:build",
            "args": {"bundle": bundle, "cpus_per_replica": 0.5},
            "deployments": [{"name": DEPLOYMENT, "user_config": tuning}],
        }
        client = _get_global_client()
        assert client is not None
        client.deploy_apps(ServeDeploySchema.model_validate({"applications": [application]}), _blocking=True)

    deploy(max_batch_size=4)
    before = started()
    assert status() == 200
    deploy(timeout_s=1e-6)
    assert status() == 429
    deploy(timeout_s=60)
    assert status() == 200
    assert started() == before
