from pathlib import Path

import pytest
from tones import prepare_tones


@pytest.fixture(scope="package")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the datasets `train` and `evaluation` of tones.py, not to be written to."""
    root = tmp_path_factory.mktemp("tones")
    prepare_tones(root)
    return root
