import os
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from sweeps import keep, make_space, trial

from jasper_ray.config.files import load_run_config
from jasper_ray.config.schema import RunConfig
from tuning.charts import Axis
from tuning.importance import importances
from tuning.report import sweep_page, write_report
from tuning.results import sweep_figures
from tuning.settings import SweepConfig

CHROMIUM = Path(os.environ.get("JASPER_CHROMIUM", "/usr/bin/chromium"))
RULES = {"optimizer__lr": {"loguniform": [1e-3, 1.0]}, "accumulation": {"choice": [1, 2]}}
SWEEP = SweepConfig.model_validate(
    {"name": "s", "space": {key.replace("__", "."): rule for key, rule in RULES.items()}, "budget": {"trials": 9}}
)


def trials(count: int = 8) -> list:  # type: ignore[type-arg]
    made = []
    for number in range(count):
        rate, best = 1e-3 * 2**number, 0.1 + 0.05 * abs(number - 4)
        made.append(trial(number, {"optimizer.lr": rate, "accumulation": 1 + number % 2}, [1.0, best]))
    return made


def test_the_page_has_curves_parallel_coordinates_heat_map_importance_and_every_trial(tmp_path: Path) -> None:
    lost = trial(8, {"optimizer.lr": 0.9, "accumulation": 1}, [], "diverged", "losses <inf>")
    records = keep(tmp_path, *trials(), lost)
    space = make_space(**RULES)
    page = sweep_page(records, space, SWEEP, RunConfig(), sweep_figures(records, RunConfig(), {"CPU": 2}))
    for heading in (
        "Learning curves",
        "Settings",
        "optimizer.lr × accumulation",
        "Importance",
        "Accumulation",
        "Trials",
    ):
        assert f">{heading}</h2>" in page, heading
    assert "Best is trial 4 after epoch 2" in page and "losses &lt;inf&gt;" in page and "http" not in page
    assert page.count("<tr") == 10


@pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"{CHROMIUM} is not there: apt-get install chromium, or set JASPER_CHROMIUM"
)
def test_the_page_opens_in_a_browser_and_fits_a_phone(tmp_path: Path) -> None:
    records, asked = keep(tmp_path, *trials()), []
    figures = write_report(records, make_space(**RULES), SWEEP, RunConfig(), output=str(tmp_path), cluster_resources={})
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: asked.append(message.text))
        page.goto(f"file://{figures['report']}")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        drawn = page.evaluate("[...document.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect().height)")
        assert len(drawn) == 5 and min(drawn) > 20
        curves = page.locator("svg").first.locator("polyline")
        assert curves.count() == 8 and page.locator("tr").count() == 9
        browser.close()
    assert asked == [f"file://{figures['report']}"]  # nothing from elsewhere, no complaint


def test_importance_tells_a_setting_that_decides_from_one_that_does_not() -> None:
    shares = dict(importances(trials(), make_space(**RULES)))
    assert shares["optimizer.lr"] > 2 * shares["accumulation"]
    assert importances(trials(3), make_space(**RULES)) == []


def test_the_best_config_is_a_run_that_jobs_train_takes_as_it_is(tmp_path: Path) -> None:
    base = RunConfig.model_validate({"output": str(tmp_path), "data": {"train": [{"path": "/train"}]}})
    records = keep(tmp_path / "sweeps" / "s", *trials())
    bundle = tmp_path / "sweeps" / "s" / "trials" / "0004" / "best" / "step_00000020"
    bundle.mkdir(parents=True)
    (bundle / "config.json").write_text("{}")
    figures = write_report(
        records, make_space(**RULES), SWEEP, base, output=records.output, cluster_resources={"CPU": 2.0}
    )
    assert figures["best_trial"] == 4 and figures["by_status"] == {"finished": 8}
    assert (Path(figures["best_bundle"]) / "config.json").read_text() == "{}"
    config = load_run_config(figures["best_config"])
    assert config.optimizer.lr == pytest.approx(0.016) and config.output.startswith(str(tmp_path))
    assert Path(figures["report"]).exists() and Path(figures["results"]).exists()


def test_the_share_of_training_leaves_out_start_up(tmp_path: Path) -> None:
    figures = sweep_figures(keep(tmp_path, trial(0, {}, [0.5])), RunConfig(), {"CPU": 4.0})
    # 60 of 70 seconds, 2 workers of one CPU on 4 CPUs.
    assert figures.training_share == pytest.approx(60 / 70 * 2 / 4) and figures.start_to_first_step_s == 11


def test_a_sweep_without_any_evaluation_has_a_page_too(tmp_path: Path) -> None:
    records = keep(tmp_path, trial(0, {"optimizer.lr": 1.0, "accumulation": 1}, [], "failed", "why"))
    page = sweep_page(records, make_space(**RULES), SWEEP, RunConfig(), sweep_figures(records, RunConfig(), {}))
    assert "No trial came to an evaluation." in page and "why" in page


@pytest.mark.parametrize(
    ("values", "log", "expected"),
    [
        ([0.0, 68.2, 30.1], False, [0, 20, 40, 60]),
        ([0.0, 3.0], False, [0, 1, 2, 3]),
        ([0.313, 3.41], True, [0.5, 1, 2]),
        ([1e-4, 1.0], True, [1e-4, 1e-3, 1e-2, 0.1, 1]),
        ([0.9, 1.1], True, [0.9, 0.95, 1.0, 1.05, 1.1]),
        ([7.0, 7.0], False, [7]),
    ],
)
def test_axes_are_labelled_with_round_numbers(values: list[float], log: bool, expected: list[float]) -> None:
    assert Axis("x", values, log).round_ticks() == pytest.approx(expected)
