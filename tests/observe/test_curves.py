import json
from pathlib import Path

import pytest
from PIL import Image

from jasper_ray.errors import DataError
from jasper_ray.observe.curves import plot_curves


def test_a_runs_log_becomes_a_picture(tmp_path: Path) -> None:
    events = [{"event": "progress", "global_step": n, "loss": 10.0 / n} for n in range(1, 20)]
    events += [{"event": "evaluation", "global_step": 10 * n, "loss": 1.0, "wer": 0.5 / n} for n in (1, 2)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    plot_curves(str(tmp_path), tmp_path / "pictures" / "curves.png", title="a run")
    with Image.open(tmp_path / "pictures" / "curves.png") as image:
        assert image.size == (960, 720)
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50  # something is drawn


def test_a_folder_without_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no log of a run"):
        plot_curves(str(tmp_path), tmp_path / "x.png", title="x")
