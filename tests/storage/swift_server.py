"""A real S3 server in one process: OpenStack Swift with its s3api, from PyPI. `swift_server.py FOLDER PORT [HOST]`.

Proxy, account, container and object server run as green threads of this process, on four ports from PORT on. The key is
`test:tester`, the secret `testing`; signatures are checked. Prints `ready` when it answers. Started again on the same
folder it has what was stored there.
"""

import eventlet

eventlet.monkey_patch()

import sys
import time
import types
from pathlib import Path
from typing import Any

ROLES = ("account", "container", "object")
SWIFT_CONF = """
[swift-hash]
swift_hash_path_prefix = jasper
swift_hash_path_suffix = ray
[storage-policy:0]
name = only
default = yes
"""
STORAGE_CONF = """
[DEFAULT]
swift_dir = {folder}/etc
devices = {folder}/devices
mount_check = false
bind_port = {port}
log_level = ERROR
workers = 0
[pipeline:main]
pipeline = server
[app:server]
use = egg:swift#{role}
fallocate_reserve = 0
"""
PROXY_CONF = """
[DEFAULT]
swift_dir = {folder}/etc
bind_port = {port}
log_level = ERROR
workers = 0
[pipeline:main]
pipeline = catch_errors memory listing_formats bulk s3api tempauth slo proxy-server
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:memory]
paste.filter_factory = swift_memory:filter_factory
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
s3_acl = false
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:slo]
use = egg:swift#slo
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
"""


class Memory:
    """What Swift keeps in memcached, kept in this process."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[Any, float]] = {}

    def get(self, key: str, raise_on_error: bool = False) -> Any:
        value, ends_s = self._values.get(key, (None, 0.0))
        return value if not ends_s or ends_s > time.time() else None

    def set(self, key: str, value: Any, time: float = 0, **_: Any) -> bool:
        self._values[key] = (value, now() + time if time else 0.0)
        return True

    def incr(self, key: str, delta: int = 1, time: float = 0, **_: Any) -> int:
        total = (self.get(key) or 0) + delta
        self.set(key, total, time=time)
        return total

    def decr(self, key: str, delta: int = 1, time: float = 0, **_: Any) -> int:
        return self.incr(key, -delta, time)

    def delete(self, key: str, **_: Any) -> None:
        self._values.pop(key, None)

    def set_multi(self, mapping: dict[str, Any], server_key: str, time: float = 0, **_: Any) -> None:
        for key, value in mapping.items():
            self.set(key, value, time=time)

    def get_multi(self, keys: list[str], server_key: str, **_: Any) -> list[Any]:
        return [self.get(key) for key in keys]


def now() -> float:
    return time.time()


def install_memory() -> None:
    """Make the module that PROXY_CONF names."""
    memory = Memory()

    def filter_factory(_: Any, **__: Any) -> Any:
        def wrap(application: Any) -> Any:
            def answer(environ: dict[str, Any], start_response: Any) -> Any:
                environ["swift.cache"] = memory
                return application(environ, start_response)

            return answer

        return wrap

    module = types.ModuleType("swift_memory")
    module.filter_factory = filter_factory  # type: ignore[attr-defined]
    sys.modules["swift_memory"] = module


def main(folder: Path, port: int, host: str = "127.0.0.1") -> None:
    (folder / "etc").mkdir(parents=True, exist_ok=True)
    (folder / "devices" / "disk").mkdir(parents=True, exist_ok=True)
    (folder / "etc" / "swift.conf").write_text(SWIFT_CONF)

    from swift.common import storage_policy, utils
    from swift.common.ring.builder import RingBuilder
    from swift.common.utils import config

    for module in (utils, config):
        module.SWIFT_CONF_FILE = str(folder / "etc" / "swift.conf")
    storage_policy.SWIFT_CONF_FILE = utils.SWIFT_CONF_FILE
    utils.validate_configuration()
    storage_policy.reload_storage_policies()
    ports = {role: port + 1 + number for number, role in enumerate(ROLES)}
    for role in ROLES:
        ring = RingBuilder(4, 1, 1)
        device = {
            "id": 0,
            "region": 1,
            "zone": 1,
            "ip": "127.0.0.1",
            "port": ports[role],
            "device": "disk",
            "weight": 1,
        }
        ring.add_dev({**device, "replication_ip": "127.0.0.1", "replication_port": ports[role]})
        ring.rebalance()
        ring.get_ring().save(str(folder / "etc" / f"{role}.ring.gz"))
        conf = STORAGE_CONF.format(folder=folder, port=ports[role], role=role)
        (folder / "etc" / f"{role}.conf").write_text(conf)
    (folder / "etc" / "proxy.conf").write_text(PROXY_CONF.format(folder=folder, port=port))
    install_memory()

    from eventlet import listen, wsgi
    from swift.common.http_protocol import SwiftHttpProtocol
    from swift.common.utils import NullLogger
    from swift.common.wsgi import loadapp

    threads = []
    for role, role_port in {**ports, "proxy": port}.items():
        application = loadapp(str(folder / "etc" / f"{role}.conf"), global_conf={"log_name": role})
        socket = listen((host if role == "proxy" else "127.0.0.1", role_port), backlog=256)
        threads.append(
            eventlet.spawn(wsgi.server, socket, application, NullLogger(), protocol=SwiftHttpProtocol, log_output=False)
        )
    print("ready", flush=True)
    for thread in threads:
        thread.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
