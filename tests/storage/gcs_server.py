"""Google Cloud Storage's JSON API on this machine: gcp-storage-emulator from PyPI. `python gcs_server.py PORT`.

Prints `ready` when it answers. It must not live in the process that uses it: pyarrow's client waits for it with the
interpreter locked. Its own server answers one connection at a time, of which pyarrow opens several.
"""

import sys
from functools import partial
from http.server import ThreadingHTTPServer

from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

BUCKET = "jasper"


def main() -> None:
    storage = Storage(use_memory_fs=True)
    buckets.create_bucket(BUCKET, storage)
    with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), partial(RequestHandler, storage)) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
