import atexit
import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something of the machine, not of the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

REPOSITORY = Path(__file__).parent.parent

_status = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep what the tests came to, for the end of the process."""
    session.config.stash[_status] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End without the interpreter's own teardown: it crashed once in native libraries, all tests being over.

    What is registered for the end of the process is done, and the tests' own status is what counts.
    """
    if _status in config.stash:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[_status])


@pytest.fixture(scope="session")
def nvidia_fixtures() -> Path:
    """Folder of outputs of NVIDIA's own code; not part of the repository."""
    folder = Path(os.environ.get("JASPER_FIXTURES", REPOSITORY.parent / "shared" / "reference" / "fixtures"))
    if not (folder / "README.md").exists():
        pytest.skip(f"NVIDIA's outputs are not at {folder}: set JASPER_FIXTURES to their folder")
    return folder


@pytest.fixture(scope="session")
def speech_data() -> Path:
    """Folder of real speech (librispeech, fsdd, ljspeech, jfk, ...); not part of the repository."""
    folder = Path(os.environ.get("JASPER_SPEECH_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "README.md").exists():
        pytest.skip(f"there is no real speech at {folder}: set JASPER_SPEECH_DATA to its folder")
    return folder


@pytest.fixture
def triton_interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Our Triton kernels run on the CPU: slowly, one operation after the other."""
    # Triton itself is imported before it is told so: a later test may want to compile.
    pytest.importorskip(
        "triton", reason="triton is not installed, as without a CUDA build of torch: pip install triton"
    )
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    # Kernels are interpreted or compiled from the time they are imported.
    for name in _kernels():
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in _kernels():
        del sys.modules[name]


def _kernels() -> list[str]:
    return [name for name in sys.modules if name.startswith("jasper_ray.") and name.endswith("_kernels")]


COMPILED = '''
import sys
import triton
from triton.backends.compiler import GPUTarget

def compiled(kernel, constants, types, *, default="i32", aligned=(), **options):
    """For the capability that the script is given; `aligned` names what is a multiple of 16."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, default) for name in names}
    attributes = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in aligned}
    source = triton.compiler.ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options=options)
'''


@pytest.fixture
def compile_kernels(tmp_path: Path) -> Callable[[str, str], "subprocess.CompletedProcess[str]"]:
    """Runs a script that compiles our Triton kernels by `compiled`, for a compute capability; needs no GPU."""
    pytest.importorskip(
        "triton", reason="triton is not installed, as without a CUDA build of torch: pip install triton"
    )
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    path = f"{REPOSITORY}:{environment.get('PYTHONPATH', '')}"
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}

    def run(script: str, capability: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", COMPILED + script, capability]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)

    return run


@pytest.fixture(scope="session")
def s3_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket on a real S3 server (OpenStack Swift) on this machine, reachable through the AWS_ variables."""
    if importlib.util.find_spec("swift") is None:
        pytest.skip("the S3 server is not installed: pip install swift")
    port = _four_free_ports()
    script = REPOSITORY / "tests" / "storage" / "swift_server.py"
    folder = tmp_path_factory.mktemp("swift")
    # To a file: a pipe that nobody reads would stop the server once it is full.
    with (folder / "stderr").open("w") as errors:
        command = [sys.executable, script, folder / "data", str(port)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test:tester",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n", (folder / "stderr").read_text()
        boto3.client("s3").create_bucket(Bucket="jasper")
        yield "s3://jasper"
    finally:
        server.kill()
        server.wait()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="session")
def gs_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket of an emulator of Google Cloud Storage on this machine."""
    if importlib.util.find_spec("gcp_storage_emulator") is None:
        pytest.skip("the emulator is not installed: pip install gcp-storage-emulator")
    port = _four_free_ports()
    script = REPOSITORY / "tests" / "storage" / "gcs_server.py"
    errors_file = tmp_path_factory.mktemp("gcs") / "stderr"
    with errors_file.open("w") as errors:
        server = subprocess.Popen([sys.executable, script, str(port)], stdout=subprocess.PIPE, stderr=errors, text=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n", errors_file.read_text()
            yield "gs://jasper"
        finally:
            server.kill()
            server.wait()


def _four_free_ports() -> int:
    """The first of four neighbouring ports that nobody listens on."""
    for port in range(5600 + os.getpid() % 1000, 7000, 4):
        with contextlib.ExitStack() as sockets:
            try:
                for number in range(4):
                    sockets.enter_context(socket.socket()).bind(("127.0.0.1", port + number))
            except OSError:
                continue
            return port
    raise RuntimeError("no four free ports below 7000")
