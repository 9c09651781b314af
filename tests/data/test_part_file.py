from pathlib import Path

import pytest

from jasper_ray.data.part_file import PartFile


def part_file(folder: Path, num_bytes: int = 25, chunk_bytes: int = 10) -> PartFile:
    return PartFile(folder / "a.part", num_bytes=num_bytes, chunk_bytes=chunk_bytes)


def test_chunks_are_filled_in_any_order_and_the_next_process_knows_how_far(tmp_path: Path) -> None:
    with part_file(tmp_path) as part:
        part.write(2, b"uvwxy")
        part.write(0, b"abc")
        part.write(0, b"def")
        assert [part.missing(chunk) for chunk in range(part.num_chunks)] == [(6, 10), (10, 20), (25, 25)]
    with part_file(tmp_path) as part:
        assert (part.num_done, part.missing(0), part.missing(2)) == (11, (6, 10), (25, 25))
        part.write(0, b"ghij")
        part.write(1, b"klmnopqrst")
    assert (tmp_path / "a.part").read_bytes() == b"abcdefghijklmnopqrstuvwxy"


@pytest.mark.parametrize("damage", ["other-size", "other-chunks", "no-file", "short-file", "no-json", "other-json"])
def test_a_state_that_does_not_fit_counts_for_nothing(tmp_path: Path, damage: str) -> None:
    with part_file(tmp_path) as part:
        part.write(0, b"abc")
    path, state = tmp_path / "a.part", tmp_path / "a.part.json"
    if damage == "no-file":
        path.unlink()
    if damage == "short-file":
        path.write_bytes(b"abc")
    if damage.endswith("json"):
        state.write_text("{" if damage == "no-json" else '{"num_bytes": 25, "chunk_bytes": 10, "done": [3]}')
    num_bytes, chunk_bytes = 26 if damage == "other-size" else 25, 9 if damage == "other-chunks" else 10
    with part_file(tmp_path, num_bytes, chunk_bytes) as part:
        assert part.num_done == 0
        assert path.stat().st_size == num_bytes


def test_what_is_forgotten_is_missing_again(tmp_path: Path) -> None:
    with part_file(tmp_path) as part:
        part.write(1, b"k")
        part.forget()
        assert (part.num_done, part.missing(1)) == (0, (10, 20))


def test_a_thread_that_comes_too_late_writes_nothing(tmp_path: Path) -> None:
    with part_file(tmp_path) as part:
        pass
    part.write(0, b"abc")
    assert part.num_done == 0
