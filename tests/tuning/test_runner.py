from pathlib import Path

import pytest
import yaml

from jasper_ray.config.schema import RunConfig
from jasper_ray.errors import ConfigError
from tuning.runner import RUN_FILE, _settle
from tuning.settings import SweepConfig

RUN = RunConfig()
SWEEP = SweepConfig.model_validate({"space": {"optimizer.lr": {"grid": [0.1, 0.2]}}, "search": "grid"})


def test_a_sweep_goes_on_after_a_release_with_new_keys(tmp_path: Path) -> None:
    _settle(str(tmp_path), RUN, SWEEP)
    saved = yaml.safe_load((tmp_path / RUN_FILE).read_text())
    del saved["cluster"]["metrics"]  # as an older release wrote it
    (tmp_path / RUN_FILE).write_text(yaml.safe_dump(saved))
    _settle(str(tmp_path), RUN, SWEEP)


def test_another_sweep_in_the_same_folder_is_refused_with_what_differs(tmp_path: Path) -> None:
    _settle(str(tmp_path), RUN, SWEEP)
    other = RUN.model_copy(update={"seed": 7})
    with pytest.raises(ConfigError, match=r"holds another sweep: seed is 0 there and 7 now.*sweep.name=NAME"):
        _settle(str(tmp_path), other, SWEEP)


def test_a_key_that_is_gone_is_named(tmp_path: Path) -> None:
    _settle(str(tmp_path), RUN, SWEEP)
    saved = yaml.safe_load((tmp_path / RUN_FILE).read_text())
    saved["cluster"]["colour"] = "red"
    (tmp_path / RUN_FILE).write_text(yaml.safe_dump(saved))
    with pytest.raises(ConfigError, match=r"cluster.colour is 'red' there and None now"):
        _settle(str(tmp_path), RUN, SWEEP)
