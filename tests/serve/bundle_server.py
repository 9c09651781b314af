"""`python bundle_server.py BUNDLE`: the APIs over a bundle without Ray, in a process of its own; prints its port."""

import socket
import sys

import torch
import uvicorn

from jasper_ray.inference.transcriber import Transcriber
from serve.http_app import build_api
from serve.recognizer import LocalRecognizer, ModelCard
from serve.uploads import Limits


def main() -> None:
    torch.set_num_threads(1)
    transcriber = Transcriber.from_bundle(sys.argv[1])
    transcriber.warm_up()
    card = ModelCard("jasper", 16000, 0, {}, alphabet=transcriber.config.text.alphabet)
    api = build_api(LocalRecognizer(transcriber), card, Limits(200 * 2**20, 14_400.0))
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(api, log_level="critical")).run(sockets=[listener])


if __name__ == "__main__":
    main()
