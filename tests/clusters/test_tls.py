"""clusters/tls.sh, and Ray with its certificates: nodes that have them work together, a driver without is shut out."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "clusters" / "tls.sh"
TWO_NODES = """
import subprocess, sys
import ray
from ray.cluster_utils import Cluster

cluster = Cluster()
cluster.add_node(num_cpus=1, object_store_memory=80_000_000, include_dashboard=False)
cluster.add_node(num_cpus=1, object_store_memory=80_000_000, resources={"second": 1})
ray.init(address=cluster.address, log_to_driver=False)
try:
    where = ray.remote(lambda: ray.get_runtime_context().get_node_id())
    nodes = {ray.get(where.options(resources={"second": 1}).remote()), ray.get_runtime_context().get_node_id()}
    print("nodes", len(nodes))
    code = f"import ray; ray.init('{cluster.address}', log_to_driver=False); print('let in')"
    plain = subprocess.run([sys.executable, "-c", code], env=PLAIN, capture_output=True, text=True, timeout=120)
    print("stranger", plain.returncode, "let in" in plain.stdout)
finally:
    ray.shutdown()
    cluster.shutdown()
"""

if shutil.which("openssl") is None:
    pytest.skip("needs openssl", allow_module_level=True)


def tls(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", SCRIPT, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    assert tls("ca", folder).returncode == 0
    assert tls("node", folder, "10.0.0.1", "head.example", _own_address()).returncode == 0
    return folder


def _own_address() -> str:
    import ray.util

    return str(ray.util.get_node_ip_address())


def test_a_node_is_certified_for_its_addresses_and_this_machine(certificates: Path) -> None:
    verify = ["openssl", "verify", "-CAfile", certificates / "ca.crt", certificates / "node.crt"]
    assert subprocess.run(verify, capture_output=True).returncode == 0
    show = ["openssl", "x509", "-in", certificates / "node.crt", "-noout", "-ext", "subjectAltName"]
    names = subprocess.run(show, capture_output=True, text=True).stdout
    for name in ("DNS:localhost", "IP Address:127.0.0.1", "IP Address:10.0.0.1", "DNS:head.example"):
        assert name in names


def test_keys_are_readable_by_their_owner_only(certificates: Path) -> None:
    for name in ("ca.key", "node.key"):
        assert (certificates / name).stat().st_mode & 0o077 == 0


def test_a_second_authority_does_not_replace_the_first(certificates: Path) -> None:
    before = (certificates / "ca.key").read_bytes()
    result = tls("ca", certificates)
    assert result.returncode == 1 and "would be locked out" in result.stderr
    assert (certificates / "ca.key").read_bytes() == before


def test_a_node_without_an_authority_is_refused(tmp_path: Path) -> None:
    result = tls("node", tmp_path, "10.0.0.1")
    assert result.returncode == 1 and "tls.sh ca" in result.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_two_nodes_with_certificates_work_together_and_a_driver_without_is_shut_out(certificates: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        "RAY_AUTH_MODE": "disabled",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
        "RAY_gcs_server_request_timeout_seconds": "5",
    }
    encrypted = {
        **plain,
        "RAY_USE_TLS": "1",
        "RAY_TLS_CA_CERT": str(certificates / "ca.crt"),
        "RAY_TLS_SERVER_CERT": str(certificates / "node.crt"),
        "RAY_TLS_SERVER_KEY": str(certificates / "node.key"),
    }
    for name in ("RAY_gcs_rpc_server_reconnect_timeout_s", "RAY_gcs_server_request_timeout_seconds"):
        del encrypted[name]
    code = f"PLAIN = {plain!r}\n{TWO_NODES}"
    result = subprocess.run([sys.executable, "-c", code], env=encrypted, capture_output=True, text=True, timeout=400)
    assert "nodes 2" in result.stdout, result.stdout + result.stderr
    assert "stranger 1 False" in result.stdout, result.stdout + result.stderr
