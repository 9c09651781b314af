from pathlib import Path

import pytest
from tones import prepare_tones, run_workers, tone_config

from jasper_ray.training.report import read_log
from jasper_ray.training.snapshot import Snapshot


def test_on_a_store_the_log_has_every_step_of_a_checkpoint_before_the_checkpoint_is_there(
    tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies between the two goes on from that checkpoint: what the log lacks then is lacking for ever."""
    prepare_tones(tmp_path, train=24, evaluation=4)
    write, logged = Snapshot.write_checkpoint, {}

    def watched(self: Snapshot, *args: object) -> str:
        steps = [event["global_step"] for event in read_log(config.output) if event["event"] == "progress"]
        logged[self.progress.global_step] = steps
        return write(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Snapshot, "write_checkpoint", watched)
    overrides = ("training.epochs=3", "training.evaluate_every_epochs=100", "checkpoint.every_steps=2")
    config = tone_config(tmp_path, tmp_path, f"output={s3_bucket}/{tmp_path.name}", *overrides)
    run_workers(config, 1)
    assert logged and all(set(steps) >= set(range(1, step + 1)) for step, steps in logged.items()), logged
