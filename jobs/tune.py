"""Find good settings: `ray job submit --working-dir . -- python -m jobs.tune CONFIG SWEEP.yaml [KEY=VALUE ...]`."""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from jasper_ray.config.files import load_config, load_run_config
from jasper_ray.config.knobs import describe_knobs
from jasper_ray.config.schema import RunConfig
from jasper_ray.errors import ConfigError
from jasper_ray.storage import object_store
from jobs.entry import console, run_job
from tuning.settings import OVERRIDE_PREFIX, SweepConfig, load_sweep
from tuning.spaces import Space

RANGE_PREFIX = "range."
COMPARISON_FILE = "comparison.html"


def sweep(arguments: Sequence[str]) -> Mapping[str, Any]:
    """Run or continue a sweep, and give its figures.

    Args:
        arguments: CONFIG, SWEEP.yaml and `KEY=VALUE`; keys that begin with `sweep.` are the sweep's.
    """
    config, settings, source = read_arguments(arguments)
    Space(settings.space, config, source=source)
    # Here, so that help and what is wrong with a config are there at once: Ray and torch take seconds to import.
    import ray

    from jasper_ray.cluster.ray_metrics import RayMetrics
    from jasper_ray.cluster.room import require_capacity
    from jasper_ray.cluster.trainer import connected_to_ray, prepare_missing_datasets, with_absolute_paths
    from tuning.display import open_sweep_display
    from tuning.feed import Audiences
    from tuning.records import Records
    from tuning.report import write_report
    from tuning.runner import check_sweep, run_sweep, sweep_folder
    from tuning.sweep_metrics import SweepMetrics

    config = with_absolute_paths(config)
    space = Space(settings.space, config, source=source)
    check_sweep(config, settings, space)
    output = sweep_folder(config, settings)
    records = Records(output)
    resources: dict[str, float] = {}
    with connected_to_ray(log_to_driver=False):  # the logs of many runs at once are no use to anyone
        require_capacity(config.cluster)  # before hours go into preparing data for it
        resources = ray.cluster_resources()
        prepare_missing_datasets(config)
        display = open_sweep_display(console)
        metrics = SweepMetrics(RayMetrics(), sweep=settings.name)
        try:
            run_sweep(config, settings, space, records, Audiences([display, metrics]))
        except (KeyboardInterrupt, SystemExit):
            if records.best is not None:
                write_report(records, space, settings, config, output=output, cluster_resources=resources)
                console.print(f"so far: {output}/report.html; the same command goes on", highlight=False)
            raise
        finally:
            display.close()
            metrics.end()
    return write_report(records, space, settings, config, output=output, cluster_resources=resources)


def lr_range_test(arguments: Sequence[str]) -> Mapping[str, Any]:
    """Train for some steps while the learning rate rises, and say what the losses tell of it.

    Args:
        arguments: CONFIG and `KEY=VALUE`; keys that begin with `range.` are the test's.
    """
    from tuning.range_test import RangeConfig

    files, own, rest = _sorted(arguments, RANGE_PREFIX)
    if len(files) != 1:
        raise ConfigError(f"needs a run's config, got {files}: python -m jobs.tune CONFIG --lr-range-test")
    config, settings = load_run_config(files[0], rest), load_config(RangeConfig, None, own, environ=os.environ)

    from jasper_ray.cluster.display import open_display
    from jasper_ray.cluster.trainer import (
        connected_to_ray,
        prepare_missing_datasets,
        run_training,
        with_absolute_paths,
    )
    from jasper_ray.errors import NonFiniteError
    from jasper_ray.training.assembly import plan_run, select_for
    from tuning.range_test import range_run, read_curve, write_range_report

    config = with_absolute_paths(config)
    display = open_display(console)
    try:
        with connected_to_ray():
            prepare_missing_datasets(config)
            steps = plan_run(config, select_for(config).manifest).nominal_steps_per_epoch
            run = range_run(config, settings, steps_per_epoch=steps)
            object_store.delete_tree(run.output)  # an earlier test
            try:
                run_training(run, display)
            except NonFiniteError as error:  # that is what a test may come to
                console.print(f"the test ended early: {error}", markup=False, highlight=False)
    finally:
        display.close()
    return write_range_report(run, read_curve(run.output))


def compare(folders: Sequence[str]) -> Mapping[str, Any]:
    """Two sweeps side by side, as figures and as a page in the second one's folder."""
    from tuning.comparison import compare_sweeps, comparison_page, read_sweep

    sweeps = [read_sweep(object_store.absolute(folder)) for folder in folders]
    result = compare_sweeps(sweeps)
    uri = object_store.join(sweeps[1].uri, COMPARISON_FILE)
    object_store.write_bytes(uri, comparison_page(sweeps, result).encode())
    return {**result, "report": uri}


def read_arguments(arguments: Sequence[str]) -> tuple[RunConfig, SweepConfig, str]:
    """Run, sweep and the sweep's file.

    Raises:
        ConfigError: A file is missing, or wrong.
    """
    files, own, rest = _sorted(arguments, OVERRIDE_PREFIX)
    if len(files) != 2:
        raise ConfigError(
            f"needs a run's config and a sweep, got {files}: python -m jobs.tune CONFIG tuning/lr_accumulation.yaml"
        )
    return load_run_config(files[0], rest), load_sweep(files[1], own), files[1]


def _sorted(arguments: Sequence[str], prefix: str) -> tuple[list[str], list[str], list[str]]:
    """Files, overrides with the prefix (which they lose), and other overrides."""
    files = [argument for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    own = [text.removeprefix(prefix) for text in overrides if text.startswith(prefix)]
    return files, own, [text for text in overrides if not text.startswith(prefix)]


def main() -> None:
    """Try settings of a run on a Ray cluster, or here if RAY_ADDRESS is not set; the same command again goes on."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.tune",
        description=main.__doc__,
        epilog="knobs of a sweep (docs/tuning.md):\n\n" + describe_knobs(SweepConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="CONFIG SWEEP.yaml KEY=VALUE",
        help="see jobs/configs/ and tuning/; a KEY is the run's, or with sweep. before it the sweep's",
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--lr-range-test",
        action="store_true",
        help="instead, without a SWEEP: one short run with a rising learning rate (range.low_lr, range.high_lr, "
        "range.steps)",
    )
    other.add_argument("--compare", nargs=2, metavar="FOLDER", help="instead: two sweeps (OUTPUT/sweeps/NAME)")
    options = parser.parse_intermixed_args()
    if options.compare and options.arguments:
        parser.error("--compare takes two folders and nothing else")
    if options.compare:
        run_job(lambda: compare(options.compare))
    elif options.lr_range_test:
        run_job(lambda: lr_range_test(options.arguments))
    else:
        run_job(lambda: sweep(options.arguments))


if __name__ == "__main__":
    main()
