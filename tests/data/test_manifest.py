from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jasper_ray.data.manifest import Manifest, Utterance, concat_manifests, manifest_of, read_manifest, write_manifest
from jasper_ray.errors import DataError
from jasper_ray.storage import object_store


def manifest(prefix: str = "u", count: int = 5) -> Manifest:
    return manifest_of(
        [
            Utterance(
                f"{prefix}{n}", f"text {n}", 0.5 + n, 8000 * (n + 1), 16000, f"s{n % 2}", f"0000{n // 3}.arrow", n % 3
            )
            for n in range(count)
        ]
    )


@pytest.mark.parametrize("store", ["local", "s3"])
def test_a_manifest_comes_back_with_full_shard_uris(request: pytest.FixtureRequest, tmp_path: Path, store: str) -> None:
    folder = str(tmp_path / "d") if store == "local" else f"{request.getfixturevalue('s3_bucket')}/{tmp_path.name}"
    written = manifest()
    write_manifest(folder, written)
    read = read_manifest(folder)
    assert (read.ids, read.texts, read.speakers) == (written.ids, written.texts, written.speakers)
    assert read.fingerprint == written.fingerprint
    utterance = read.utterance(4)
    assert utterance.shard == object_store.join(folder, "shards", "00001.arrow") and utterance.row == 1
    assert utterance.duration_s == 4.5 and utterance.num_samples == 40000


def test_the_fingerprint_follows_content_and_order_but_not_the_place() -> None:
    one = manifest()
    moved = Manifest(**{**vars(one), "shards": ["elsewhere/0", "elsewhere/1"]})
    assert moved.fingerprint == one.fingerprint
    assert one.select(np.array([1, 0, 2, 3, 4])).fingerprint != one.fingerprint
    assert one.select(np.arange(4)).fingerprint != one.fingerprint
    assert manifest("v").fingerprint != one.fingerprint


def test_select_takes_rows_in_the_given_order() -> None:
    chosen = manifest().select(np.array([4, 0]))
    assert chosen.ids == ["u4", "u0"] and chosen.utterance(0).text == "text 4"
    assert chosen.hours == pytest.approx(5.0 / 3600)


def test_datasets_are_joined_and_a_doubled_id_is_named() -> None:
    joined = concat_manifests([manifest("a"), manifest("b")])
    assert len(joined) == 10 and joined.utterance(7).id == "b2"
    with pytest.raises(DataError, match=r"'a0' is in the datasets twice"):
        concat_manifests([manifest("a"), manifest("a")])


def test_a_folder_without_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a prepared dataset.*python -m jobs\.prepare"):
        read_manifest(str(tmp_path))


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"manifest\.parquet is damaged"):
        read_manifest(str(tmp_path))


def test_checksums_of_shards_stay_with_their_shards(tmp_path: Path) -> None:
    written = replace(manifest(), shard_checksums=["a" * 64, "b" * 64])
    write_manifest(str(tmp_path / "d"), written)
    write_manifest(str(tmp_path / "e"), manifest("v"))
    read, other = read_manifest(str(tmp_path / "d")), read_manifest(str(tmp_path / "e"))
    assert read.shard_checksums == written.shard_checksums
    assert [other.checksum(0), manifest().checksum(1)] == ["", ""]
    both = concat_manifests([other, read.select(np.array([4]))])
    assert dict(zip(both.shards, both.shard_checksums, strict=True)) == {
        **dict.fromkeys(other.shards, ""),
        **dict(zip(read.shards, written.shard_checksums, strict=True)),
    }
