from pathlib import Path

import pytest
from sweeps import keep, trial

from jasper_ray.config.files import dump_config
from jasper_ray.config.schema import RunConfig
from jasper_ray.errors import DataError
from tuning.comparison import compare_sweeps, comparison_page, read_sweep
from tuning.settings import SweepConfig


def saved(folder: Path, name: str, wers: list[float], data: str = "/dev") -> str:
    rules = {"optimizer.lr": {"choice": [0.1]}}
    sweep = SweepConfig.model_validate({"name": name, "space": rules, "budget": {"trials": 1}})
    run = RunConfig.model_validate({"data": {"evaluation": [{"path": data}]}})
    keep(folder, trial(0, {"optimizer.lr": 0.1}, wers))
    (folder / "sweep.yaml").write_text(dump_config(sweep))
    (folder / "run.yaml").write_text(dump_config(run))
    return str(folder)


def test_two_sweeps_are_set_side_by_side_with_what_a_word_is_worth(tmp_path: Path) -> None:
    folders = [saved(tmp_path / "a", "a", [0.5, 0.3]), saved(tmp_path / "b", "b", [0.4, 0.25])]
    sweeps = [read_sweep(folder) for folder in folders]
    result = compare_sweeps(sweeps)
    assert result["wer_difference"] == pytest.approx(-0.05) and result["one_word"] == 1 / 200
    assert sweeps[0].best_so_far() == [(pytest.approx(70 / 3600), 50), (pytest.approx(130 / 3600), 30)]
    page = comparison_page(sweeps, result)
    assert "b ends 5.00% below a; one word more or less is 0.50%" in page and "<svg" in page


def test_sweeps_over_other_data_are_not_compared_and_a_folder_without_one_is_named(tmp_path: Path) -> None:
    sweeps = [read_sweep(saved(tmp_path / name, name, [0.5], data=f"/{name}")) for name in ("a", "b")]
    with pytest.raises(DataError, match=r"was judged on /a and .* on /b"):
        compare_sweeps(sweeps)
    with pytest.raises(DataError, match=r"is not the folder of a sweep: it has no sweep.yaml"):
        read_sweep(str(tmp_path))
