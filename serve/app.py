"""The Serve application: replicas that hold the HTTP APIs, a scheduler and the model.

`serve run serve.app:build bundle=runs/demo/bundle`, `serve deploy serve/local.yaml`, or `python -m jobs.serve BUNDLE`.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from fastapi import FastAPI
from pydantic import Field
from ray import serve
from ray.serve import Application

from jasper_ray.cluster.ray_metrics import RayMetrics
from jasper_ray.config.decoding import DecodingConfig
from jasper_ray.config.files import load_config
from jasper_ray.config.strict import StrictModel
from jasper_ray.decoding.confidence import read_calibrations
from jasper_ray.errors import BundleError
from jasper_ray.inference.searching import TranscriptSearch
from jasper_ray.inference.transcriber import Transcriber
from jasper_ray.model.bundle import check_bundle, read_bundle_config
from jasper_ray.storage import object_store
from serve.access import key_digests
from serve.batches import BatchLimits
from serve.canary import CanaryRecognizer
from serve.http_app import build_api
from serve.live_socket import LiveLimits
from serve.metrics import LoadMetrics
from serve.recognizer import LocalRecognizer, ModelCard, Recognizer
from serve.scheduler import QueueLimits
from serve.uploads import Limits

DEPLOYMENT = "Transcription"
SHUTDOWN_WAIT_S = 0.5
"""How often a replica that is to end looks whether its last request has been answered."""
ONE_LOOP = {"env_vars": {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}}
"""Runtime environment of a replica. Ray Serve gives an application a thread of its own, lest it block the replica; this
one does not block, and each way between two threads costs a request more than most of its own work."""


class Tuning(StrictModel):
    """What can be changed while replicas run; `user_config` of the deployment in a Serve YAML file."""

    max_batch_size: int = Field(32, ge=1)
    """Largest number of utterances computed together."""
    max_batch_seconds: float = Field(160.0, gt=0)
    """Most seconds of audio computed together, with padding."""
    max_padding: float = Field(0.3, ge=0, le=1)
    """Utterances of one batch differ in length by at most this share."""
    max_queue: int = Field(256, ge=1)
    """Utterances that may wait in a replica; more are answered with 429."""
    max_queue_seconds: float = Field(3600.0, gt=0)
    """Seconds of audio that may wait in a replica; more are answered with 429."""
    timeout_s: float = Field(60.0, gt=0)
    """An utterance without a transcript after this time is answered with 429."""

    canary_weight: float = Field(0.0, ge=0, le=1)
    """Share of requests and live sessions that `canary_bundle` answers."""

    def batch_limits(self) -> BatchLimits:
        """For the scheduler."""
        return BatchLimits(self.max_batch_size, self.max_batch_seconds, self.max_padding)

    def queue_limits(self) -> QueueLimits:
        """For the scheduler."""
        return QueueLimits(self.max_queue, self.max_queue_seconds, self.timeout_s)


class ServeArgs(Tuning):
    """What an application is made of; `args` in a Serve YAML file."""

    bundle: str
    """Folder of the bundle, local or s3://."""
    canary_bundle: str | None = None
    """A new model beside the other one in each replica, for `canary_weight` of the requests."""
    model_name: str = "jasper"
    """Name that clients ask for."""
    language: str = "english"
    """What the model hears; said in verbose_json."""
    device: str = "cpu"
    """cpu or cuda."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Arithmetic of the encoder: fp16 on a GPU; on a CPU bf16 where it has that, or fp16, which Jasper gains from."""
    num_replicas: int = Field(1, ge=1)
    """Replicas; leave it out where the Serve YAML file scales them by load."""
    cpus_per_replica: float = Field(1.0, gt=0)
    """CPUs, and torch threads, of a replica."""
    gpus_per_replica: float = Field(0.0, ge=0)
    """GPUs of a replica."""
    max_ongoing_requests: int = Field(1024, ge=1)
    """HTTP requests that one replica holds at a time, uploads among them; Ray Serve lets others wait in its proxy."""
    max_upload_mb: float = Field(25.0, gt=0)
    """Larger uploads are answered with 413."""
    max_duration_s: float = Field(14_400.0, gt=0)
    """Longer audio is answered with 400; KServe's APIs, which do not read in windows, take 600 s at most."""
    max_live_sessions: int = Field(32, ge=0)
    """WebSockets that one replica holds at a time; 0 turns live transcription off."""
    live_pause_s: float = Field(0.8, ge=0.1)
    """A pause so long ends an utterance of a live session."""
    live_segment_s: float = Field(30.0, ge=1)
    """Speech without a pause is cut after so long, where it is quietest."""
    live_idle_s: float = Field(60.0, gt=0)
    """A live session in which nothing comes ends after so long."""
    live_session_s: float = Field(3600.0, gt=0)
    """Longest live session."""
    decoding: str | None = None
    """YAML file as `jobs.language_model tune` writes it: transcriptions are then decoded so unless a request asks for
    greedy; without, all are greedy. Its language models must lie where every replica can read them."""
    metrics: bool = True
    """Export figures of the service to Prometheus through Ray."""
    api_keys_file: str | None = None
    """Keys that clients must send, one a line; those of JASPER_API_KEYS count too. Without any, anyone may ask."""

    def live_limits(self) -> LiveLimits:
        """For the WebSockets."""
        return LiveLimits(
            max_sessions=self.max_live_sessions,
            idle_s=self.live_idle_s,
            session_s=self.live_session_s,
            pause_s=self.live_pause_s,
            max_segment_s=self.live_segment_s,
            timeout_s=self.timeout_s,
        )


@serve.ingress()  # the application is built in the replica, by the method below
class TranscriptionReplica:
    """HTTP in, transcript out: the scheduler takes utterances from the routes without a call between processes."""

    def __init__(self, args: ServeArgs, digests: tuple[str, ...], decoding: DecodingConfig) -> None:
        torch.set_num_threads(max(1, int(args.cpus_per_replica)))
        self._args, self._digests, self._decoding = args, digests, decoding
        self._models = [_load(uri, args, decoding) for uri in (args.bundle, args.canary_bundle) if uri is not None]
        self._canary: CanaryRecognizer | None = None
        if len(self._models) == 2:
            self._canary = CanaryRecognizer(*self._models, args.canary_weight)
        self._recognizer: Recognizer = self._canary or self._models[0]
        self._sink = RayMetrics() if args.metrics else None
        if self._sink is not None:
            for number, model in enumerate(self._models):
                name = f"{args.model_name}-canary" if number else args.model_name
                LoadMetrics(self._sink, model, model=name).start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve after the constructor."""
        args = self._args
        limits = Limits(int(args.max_upload_mb * 2**20), args.max_duration_s)
        return build_api(
            self._recognizer,
            model_card(args, self._decoding),
            limits,
            live=args.live_limits(),
            key_digests=self._digests,
            name_requests=False,
            sink=self._sink,
        )

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Called by Serve at the start and when `user_config` changes; the replica goes on."""
        tuning = Tuning.model_validate(dict(user_config))
        for model in self._models:
            model.reconfigure(tuning.batch_limits(), tuning.queue_limits())
        if self._canary is not None:
            self._canary.weight = tuning.canary_weight

    def check_health(self) -> None:
        """Called by Serve again and again; what it raises has the replica replaced."""
        for model in self._models:
            model.require_progress()


def _load(uri: str, args: ServeArgs, decoding: DecodingConfig) -> LocalRecognizer:
    transcriber = Transcriber.from_bundle(uri, device=args.device, precision=args.precision)
    transcriber.warm_up()
    search = _search(uri, args, decoding, transcriber) if decoding.method == "beam" else None
    return LocalRecognizer(transcriber, args.batch_limits(), args.queue_limits(), search)


def _search(uri: str, args: ServeArgs, decoding: DecodingConfig, transcriber: Transcriber) -> TranscriptSearch:
    """Beam search in as many processes as the replica has CPUs, begun before the first request."""
    search = TranscriptSearch(
        transcriber.alphabet,
        decoding,
        frame_s=transcriber.frame_s,
        calibration=read_calibrations(uri).get("beam"),
        num_processes=max(1, int(args.cpus_per_replica)),
        apart=True,
    )
    search.warm_up()
    return search


def model_card(args: ServeArgs, decoding: DecodingConfig | None = None) -> ModelCard:
    """What clients are told about the bundle."""
    config = read_bundle_config(args.bundle)
    details: dict[str, object] = {key: config.training.get(key) for key in ("run", "step", "wer")}
    return ModelCard(
        args.model_name,
        config.features.sample_rate_hz,
        int(time.time()),
        details,
        args.language,
        config.text.alphabet,
        "greedy" if decoding is None else decoding.method,
    )


def _require_same_interface(bundle: str, canary: str) -> None:
    """Whether clients see no difference between the two but their transcripts.

    Raises:
        BundleError: There is no bundle at `canary`, or it hears or writes otherwise.
    """
    check_bundle(canary)
    first, second = (
        (config.features.sample_rate_hz, config.text.alphabet) for config in map(read_bundle_config, (bundle, canary))
    )
    if first != second:
        raise BundleError(
            f"canary_bundle={canary} has sample rate and alphabet {second}, {bundle} has {first}: clients of one model "
            "cannot be answered by the other; serve it as an application of its own"
        )


def build(args: ServeArgs) -> Application:
    """The application that Serve runs.

    Args:
        args: From the command line or a Serve YAML file.

    Raises:
        BundleError: There is no bundle, or its weights do not fit, or the canary's interface is another one; said here
            and not by a replica that fails to start.
        ConfigError: The file of API keys or the one of decoding cannot be read.
    """
    args = args.model_copy(update={"bundle": object_store.absolute(args.bundle)})  # replicas start in another folder
    check_bundle(args.bundle)
    if args.canary_bundle is not None:
        args = args.model_copy(update={"canary_bundle": object_store.absolute(args.canary_bundle)})
        _require_same_interface(args.bundle, str(args.canary_bundle))
    decoding = load_config(DecodingConfig, Path(args.decoding) if args.decoding else None, [], environ=os.environ)
    tuning = {name: getattr(args, name) for name in Tuning.model_fields}
    deployment = serve.deployment(
        TranscriptionReplica,
        name=DEPLOYMENT,
        user_config=tuning,
        num_replicas=args.num_replicas,
        max_ongoing_requests=args.max_ongoing_requests,
        graceful_shutdown_wait_loop_s=SHUTDOWN_WAIT_S,
        graceful_shutdown_timeout_s=args.timeout_s + 5 * SHUTDOWN_WAIT_S,
        ray_actor_options={
            "num_cpus": args.cpus_per_replica,
            "num_gpus": args.gpus_per_replica,
            "runtime_env": ONE_LOOP,
        },
    )
    return deployment.bind(args, key_digests(args.api_keys_file), decoding)
