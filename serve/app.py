"""The Serve application: HTTP ingress replicas over batched recogniser replicas.

`serve run serve.app:build bundle=runs/demo/bundle`, `serve deploy serve/local.yaml`, or `python -m jobs.serve BUNDLE`.
"""

import asyncio
import time
from typing import Any, Literal

import numpy as np
import torch
from fastapi import FastAPI
from pydantic import Field
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from jasper_ray.config.strict import StrictModel
from jasper_ray.inference.transcriber import Transcriber, Transcript
from jasper_ray.model.bundle import check_bundle, read_bundle_config
from jasper_ray.storage import object_store
from serve.openai_api import Limits, ModelCard, build_api

SHUTDOWN_WAIT_S = 0.5
"""How often a replica that is to end looks whether its last request has been answered."""


class ServeArgs(StrictModel):
    """What an application is made of; `args` in a Serve YAML file."""

    bundle: str
    """Folder of the bundle, local or s3://."""
    model_name: str = "jasper"
    """Name that clients ask for."""
    device: str = "cpu"
    """cpu or cuda."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Arithmetic of the encoder; fp16 on a GPU."""
    num_replicas: int = Field(1, ge=1)
    """Recogniser replicas."""
    cpus_per_replica: float = Field(1.0, gt=0)
    """CPUs, and torch threads, of a recogniser replica."""
    gpus_per_replica: float = Field(0.0, ge=0)
    """GPUs of a recogniser replica."""
    max_batch_size: int = Field(16, ge=1)
    """Largest number of requests computed together."""
    batch_wait_s: float = Field(0.01, ge=0)
    """How long a request may wait for others to be computed with."""
    max_ongoing_requests: int = Field(64, ge=1)
    """Requests that one replica takes at a time."""
    max_upload_mb: float = Field(25.0, gt=0)
    """Larger uploads are answered with 413."""
    max_duration_s: float = Field(600.0, gt=0)
    """Longer audio is answered with 400."""


class RecognizerReplica:
    """Computes transcripts in batches of whatever requests come together."""

    def __init__(self, args: ServeArgs) -> None:
        torch.set_num_threads(max(1, int(args.cpus_per_replica)))
        self._transcriber = Transcriber.from_bundle(args.bundle, device=args.device, precision=args.precision)
        self.transcribe_batch.set_max_batch_size(args.max_batch_size)  # type: ignore[attr-defined]
        self.transcribe_batch.set_batch_wait_timeout_s(args.batch_wait_s)  # type: ignore[attr-defined]

    async def transcribe(self, waveform: np.ndarray) -> Transcript:
        """The transcript of `(N,)` float32 at the model's rate."""
        result = await self.transcribe_batch(waveform)
        if isinstance(result, Exception):
            raise result
        return result

    @serve.batch  # type: ignore[untyped-decorator]
    async def transcribe_batch(self, waveforms: list[np.ndarray]) -> list[Transcript | Exception]:
        """Transcripts, or what went wrong, per waveform: an error raised here would fail the whole batch."""
        # In a thread: a forward pass on the event loop would stall health checks and other requests.
        return await asyncio.to_thread(self._transcribe_each, waveforms)

    def _transcribe_each(self, waveforms: list[np.ndarray]) -> list[Transcript | Exception]:
        """All together; if that fails, one by one, so that only those fail that cannot be helped."""
        try:
            return list(self._transcriber.transcribe(waveforms))
        except Exception as error:
            if len(waveforms) == 1:
                return [error]
            return [result for waveform in waveforms for result in self._transcribe_each([waveform])]


class RecognizerHandle:
    """A recogniser deployment as the HTTP API sees it."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def transcribe(self, waveform: np.ndarray) -> Transcript:
        """The transcript of `(N,)` float32 at the model's rate."""
        transcript: Transcript = await self._handle.transcribe.remote(waveform)
        return transcript


@serve.ingress()  # the application is built in the replica, by the method below
class HttpIngress:
    """HTTP in, recogniser call, transcript out."""

    def __init__(self, args: ServeArgs, recognizer: DeploymentHandle) -> None:
        self._args = args
        self._recognizer = RecognizerHandle(recognizer)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve after the constructor."""
        limits = Limits(int(self._args.max_upload_mb * 2**20), self._args.max_duration_s)
        return build_api(self._recognizer, model_card(self._args), limits)


def model_card(args: ServeArgs) -> ModelCard:
    """What clients are told about the bundle."""
    config = read_bundle_config(args.bundle)
    details: dict[str, Any] = {key: config.training.get(key) for key in ("run", "step", "wer")}
    return ModelCard(args.model_name, config.features.sample_rate_hz, int(time.time()), details)


def build(args: ServeArgs) -> Application:
    """The application that Serve runs.

    Args:
        args: From the command line or a Serve YAML file.

    Raises:
        BundleError: There is no bundle, or its weights do not fit; said here and not by a replica that fails to start.
    """
    args = args.model_copy(update={"bundle": object_store.absolute(args.bundle)})  # replicas start in another folder
    check_bundle(args.bundle)
    recognizer = serve.deployment(
        RecognizerReplica,
        name="Recognizer",
        graceful_shutdown_wait_loop_s=SHUTDOWN_WAIT_S,
        num_replicas=args.num_replicas,
        max_ongoing_requests=args.max_ongoing_requests,
        ray_actor_options={"num_cpus": args.cpus_per_replica, "num_gpus": args.gpus_per_replica},
    )
    ingress = serve.deployment(
        HttpIngress,
        name="HttpIngress",
        graceful_shutdown_wait_loop_s=SHUTDOWN_WAIT_S,
        max_ongoing_requests=4 * args.max_ongoing_requests,
        ray_actor_options={"num_cpus": 0},
    )
    return ingress.bind(args, recognizer.bind(args))
