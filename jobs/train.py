"""Train Jasper on a Ray cluster: `ray job submit --working-dir . -- python -m jobs.train CONFIG [KEY=VALUE ...]`."""

import argparse
import json
import time
from collections.abc import Mapping
from typing import Any

from jasper_ray.config.files import load_run_config
from jasper_ray.config.knobs import describe_knobs
from jasper_ray.config.schema import RunConfig
from jasper_ray.storage import object_store
from jobs.entry import console, run_job

SUMMARY_FILE = "summary.json"


def train(config: RunConfig) -> Mapping[str, Any]:
    """Prepare what is missing, train, and give the run's figures."""
    # Here, so that help and what is wrong with a config are there at once: Ray and torch take seconds to import.
    from jasper_ray.cluster.display import open_display
    from jasper_ray.cluster.trainer import connected_to_ray, prepare_missing_datasets, run_training

    started_s = time.monotonic()
    display = open_display(console)
    try:
        with connected_to_ray():
            prepare_missing_datasets(config)
            figures = run_training(config, display)
    finally:
        display.close()
    summary = {"name": config.name, "output": config.output, **figures, "seconds": time.monotonic() - started_s}
    object_store.write_bytes(object_store.join(config.output, SUMMARY_FILE), json.dumps(summary, indent=2).encode())
    return summary


def main() -> None:
    """Train Jasper on a Ray cluster, or on this machine if RAY_ADDRESS is not set."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.train",
        description=main.__doc__,
        epilog="knobs:\n\n" + describe_knobs(RunConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="YAML file; see jobs/configs/")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="e.g. optimizer.lr=0.02")
    arguments = parser.parse_args()
    run_job(lambda: train(load_run_config(arguments.config, arguments.overrides)))


if __name__ == "__main__":
    main()
