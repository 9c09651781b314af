import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_events import progress, tell
from tensorboardX.proto.event_pb2 import Event

from jasper_ray.observe.tensorboard import TensorBoardReporter


def events(folder: Path) -> Iterator[Any]:
    """Of every file, by the format of records: length, its checksum, content, its checksum."""
    for path in sorted(folder.glob("events.*")):
        content, position = path.read_bytes(), 0
        while position < len(content):
            (length,) = struct.unpack_from("<Q", content, position)
            yield Event.FromString(content[position + 12 : position + 12 + length])
            position += 16 + length


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    return {
        (value.tag, event.step): value.simple_value
        for event in events(folder)
        for value in event.summary.value
        if value.HasField("simple_value")
    }


def test_every_figure_of_a_run_is_a_curve(tmp_path: Path) -> None:
    tell(TensorBoardReporter(str(tmp_path)))
    found = scalars(tmp_path / "tensorboard")
    assert found["train/loss", 1] == 3.0 and found["train/loss", 2] == 1.0 and ("train/loss", 3) not in found
    assert found["evaluation/wer", 4] == 0.25 and found["train/wer", 1] == 0.5
    assert {tag for tag, _ in found} >= {
        "train/lr",
        "train/utterances_per_s",
        "train/padding_share",
        "train/loader_wait_share",
        "train/grad_norm",
        "train/memory_gb",
        "evaluation/cer",
        "evaluation/loss",
        "checkpoint/stalled_s",
    }


def test_a_resume_tells_tensorboard_to_forget_the_steps_that_are_made_again(tmp_path: Path) -> None:
    tell(TensorBoardReporter(str(tmp_path)))
    resumed = TensorBoardReporter(str(tmp_path))
    tell(resumed, [("start", {"global_step": 2}), progress(2, 1), ("end", {"global_step": 3})])
    starts = [event.step for event in events(tmp_path / "tensorboard") if event.session_log.status == 1]
    assert starts == [3]


def test_on_an_object_store_files_are_put_at_evaluations_checkpoints_and_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: dict[str, bytes] = {}
    sizes: list[int] = []

    def upload(local: Path, uri: str) -> None:
        stored[uri] = local.read_bytes()
        sizes.append(len(stored[uri]))

    monkeypatch.setattr("jasper_ray.observe.tensorboard.object_store.upload_file", upload)
    tell(TensorBoardReporter("s3://bucket/run"))
    ((uri, content),) = stored.items()
    assert uri.startswith("s3://bucket/run/tensorboard/events.out.tfevents.")
    assert len(sizes) == 5 and sizes == sorted(sizes)  # two evaluations, a checkpoint, the end and the closing
    (tmp_path / "events.out").write_bytes(content)
    assert scalars(tmp_path)["evaluation/wer", 4] == 0.25
