"""Find good settings: `ray job submit --working-dir . -- python -m jobs.tune CONFIG SWEEP.yaml [KEY=VALUE ...]`."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from jasper_ray.config.files import load_run_config
from jasper_ray.config.knobs import describe_knobs
from jasper_ray.config.schema import RunConfig
from jasper_ray.errors import ConfigError
from jobs.entry import console, run_job
from tuning.settings import OVERRIDE_PREFIX, SweepConfig, load_sweep


def sweep(arguments: Sequence[str]) -> Mapping[str, Any]:
    """Run or continue a sweep, and give its figures.

    Args:
        arguments: CONFIG, SWEEP.yaml and `KEY=VALUE`; keys that begin with `sweep.` are the sweep's.
    """
    config, settings, source = read_arguments(arguments)
    # Here, so that help and what is wrong with a config are there at once: Ray and torch take seconds to import.
    import ray

    from jasper_ray.cluster.trainer import connected_to_ray, prepare_missing_datasets, with_absolute_paths
    from tuning.display import open_sweep_display
    from tuning.report import write_report
    from tuning.runner import run_sweep, sweep_folder
    from tuning.spaces import Space

    config = with_absolute_paths(config)
    space = Space(settings.space, config, source=source)
    with connected_to_ray(log_to_driver=False):  # the logs of many runs at once are no use to anyone
        prepare_missing_datasets(config)
        display = open_sweep_display(console)
        try:
            records = run_sweep(config, settings, space, display)
        finally:
            display.close()
        resources = ray.cluster_resources()
    return write_report(
        records, space, settings, config, output=sweep_folder(config, settings), cluster_resources=resources
    )


def read_arguments(arguments: Sequence[str]) -> tuple[RunConfig, SweepConfig, str]:
    """Run, sweep and the sweep's file.

    Raises:
        ConfigError: A file is missing, or wrong.
    """
    files = [argument for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    if len(files) != 2:
        raise ConfigError(
            f"needs a run's config and a sweep, got {files}: python -m jobs.tune CONFIG tuning/lr_accumulation.yaml"
        )
    own = [text.removeprefix(OVERRIDE_PREFIX) for text in overrides if text.startswith(OVERRIDE_PREFIX)]
    rest = [text for text in overrides if not text.startswith(OVERRIDE_PREFIX)]
    return load_run_config(files[0], rest), load_sweep(files[1], own), files[1]


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
    arguments = parser.parse_args()
    run_job(lambda: sweep(arguments.arguments))


if __name__ == "__main__":
    main()
