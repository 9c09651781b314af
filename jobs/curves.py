"""Draw a run's loss and word error rate: `python -m jobs.curves RUN PICTURE.png`."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jasper_ray.observe.curves import plot_curves
from jobs.entry import run_job


def main() -> None:
    """Draw the loss and word error rate curves of a run as a PNG."""
    parser = argparse.ArgumentParser(prog="python -m jobs.curves", description=main.__doc__)
    parser.add_argument("run", help="output folder of the run, local or s3://")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    parser.add_argument("--title", help="above the picture (default: the run's folder)")
    arguments = parser.parse_args()

    def draw() -> Mapping[str, Any]:
        plot_curves(arguments.run, arguments.picture, title=arguments.title or arguments.run)
        return {"picture": str(arguments.picture)}

    run_job(draw)


if __name__ == "__main__":
    main()
