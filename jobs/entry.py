"""What every job does around its work: logs to stderr, figures as one JSON line on stdout, errors as one line."""

import json
import logging
import math
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from jasper_ray.errors import JasperRayError

LOG_COLUMNS = 132
# A log has no width: tables keep their words there, while rich would take 80 columns.
console = Console(stderr=True, width=None if sys.stderr.isatty() else LOG_COLUMNS)


def run_job(work: Callable[[], Mapping[str, Any]]) -> None:
    """Run a job and end the process.

    Exit status 0 and the figures as one JSON object on the last line of stdout; or 1 and `error: …` with the reason on
    the last line of stderr; or 130 after Ctrl-C or SIGTERM, with everything that was started ended again.

    Args:
        work: Does the job and returns its figures.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line per request otherwise
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        figures = work()
    except JasperRayError as error:
        sys.stdout.flush()
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit):  # Ray Train turns Ctrl-C into SystemExit
        console.print("interrupted", style="yellow")
        sys.exit(130)
    sys.stderr.flush()
    print(json.dumps(_finite(figures)), flush=True)


def _interrupt(number: int, frame: object) -> None:
    """SIGTERM does what Ctrl-C does at that moment; while Ray Train trains, that is to abort the run."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background by a shell script
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
