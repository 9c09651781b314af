import io
import tarfile
from pathlib import Path

import pytest

from jasper_ray.data.readers import tars
from jasper_ray.data.readers.tars import TarFiles
from jasper_ray.errors import DataError

CONTENTS = {f"{number}.flac": bytes([number]) * (700 * number) for number in range(9)}


def write_tar(file: Path) -> Path:
    with tarfile.open(file, "w:gz" if file.suffix == ".gz" else "w") as archive:
        for name, content in CONTENTS.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_references_to_the_files_of_a_tar_give_them_in_any_order(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tars, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(tars, "KEPT_BLOCKS", 3)
    with TarFiles(write_tar(tmp_path / name)) as files:
        references = {file.name: files.reference(file, where="here") for file in files}
    assert {name: reference.num_bytes for name, reference in references.items()} == {
        name: len(content) for name, content in CONTENTS.items()
    }
    for number in (0, 1, 2, 4, 3, 8, 1, 7):
        assert references[f"{number}.flac"].read() == CONTENTS[f"{number}.flac"], number


class Counted(io.FileIO):
    """Counts what is read of a file."""

    num_read = 0

    def read(self, size: int = -1) -> bytes:
        content = super().read(size)
        self.num_read += len(content)
        return content


def test_listing_a_plain_tar_reads_only_its_headers(tmp_path: Path) -> None:
    files = TarFiles(write_tar(tmp_path / "a.tar"))
    files._stream.close()
    stream = files._stream = Counted(tmp_path / "a.tar")
    with files:
        assert [file.name for file in files] == list(CONTENTS)
    # A header each, a byte to see that the file before it is all there, and the mark of the end.
    assert 0 < stream.num_read <= 513 * (len(CONTENTS) + 2)


def test_a_gzipped_tar_that_has_changed_is_read_anew(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "a.tar.gz")
    with TarFiles(file) as files:
        *_, reference = (files.reference(member, where="here") for member in files)
    assert reference.read() == CONTENTS["8.flac"]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=r"^here: .*a\.tar\.gz cannot be read as gzip"):
        reference.read()
