from pathlib import Path

import pytest

from jasper_ray.data.readers.files import file_head, matching_files, only_file
from jasper_ray.errors import DataError


def has_x(path: Path) -> bool:
    return file_head(path).startswith("x")


def test_the_one_file_that_matches_is_found_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("\ufeffx")
    (tmp_path / "b.json").write_text("y")
    (tmp_path / "c.txt").write_text("x")
    assert only_file(tmp_path, (".json",), has_x, "manifest") == tmp_path / "a.json"
    assert only_file(tmp_path / "b.json", (".json",), has_x, "manifest") == tmp_path / "b.json"


def test_none_and_several_are_errors_that_name_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must hold one manifest, holds none\. Give the file"):
        only_file(tmp_path, (".json",), has_x, "manifest")
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=r"holds 2 \(a\.json, b\.json\)"):
        only_file(tmp_path, (".json",), has_x, "manifest")


def test_what_is_not_there_matches_nothing(tmp_path: Path) -> None:
    assert matching_files(tmp_path / "no", (".json",), has_x) == []
    assert file_head(Path("a\0b")) == ""
