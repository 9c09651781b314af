"""The mean of checkpoints as a bundle: `python -m jobs.average RUN --last 5 --to BUNDLE`."""

import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any

from jasper_ray.errors import ConfigError
from jobs.entry import run_job


def _average(arguments: argparse.Namespace) -> Mapping[str, Any]:
    # Here, so that help is there at once: torch takes seconds to import.
    from jasper_ray.training.averaging import average_bundles, newest_checkpoints
    from jasper_ray.training.checkpoint import save_deployed_bundle

    sources = arguments.sources
    if arguments.last is not None:
        if len(sources) != 1 or arguments.last < 1:
            raise ConfigError(f"--last {arguments.last} wants one run's folder and at least 1, got {sources}")
        sources = newest_checkpoints(sources[0], arguments.last)
    config, weights = average_bundles(sources, plain_weights=arguments.plain)
    save_deployed_bundle(arguments.to, config, weights, None)
    return {"bundle": arguments.to, "averaged": len(sources), "sources": list(sources), "plain": arguments.plain}


def main() -> None:
    """Average the weights of checkpoints or bundles of one model, batch norm's statistics too, into a bundle."""
    parser = argparse.ArgumentParser(prog="python -m jobs.average", description=main.__doc__)
    parser.add_argument("sources", nargs="+", help="a run's folder with --last, or folders of checkpoints or bundles")
    parser.add_argument("--last", type=int, metavar="N", help="the newest N checkpoints of the run")
    parser.add_argument("--to", required=True, metavar="BUNDLE", help="folder of the new bundle, local or in a store")
    parser.add_argument(
        "--plain", action="store_true", help="average weights without EMA (default: the deployed ones, with it)"
    )
    run_job(partial(_average, parser.parse_args()))


if __name__ == "__main__":
    main()
