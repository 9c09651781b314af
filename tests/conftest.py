import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


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
