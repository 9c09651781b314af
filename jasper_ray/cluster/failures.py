"""Why a Ray Train run failed: by an error of its own, which would come again, or because workers were taken from it."""

import re
from collections.abc import Mapping

from ray.exceptions import RayError
from ray.train import UserCallback
from ray.train.v2._internal.exceptions import RayTrainError, WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from jasper_ray.errors import JasperRayError, NonFiniteError, StorageError, WorkersLostError

PEER_IS_GONE = ("gloo", "nccl", "connection closed by peer", "connection reset", "socket")
"""What the processes that are left say in a collective operation when one of them has died."""


class StopOnOwnErrors(UserCallback):  # type: ignore[misc]
    """Ends a run at an error that would come again, instead of starting it `max_failures` times more.

    That is one of our own errors, except that a store did not answer; and any other that training raised twice in the
    same words. Runs in Ray Train's controller, which takes what a callback raises for the end.
    """

    def __init__(self) -> None:
        self._last_words = ""

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        """Raise what is to end the run; called with every failure of the workers."""
        error = worker_error(worker_exceptions)
        if isinstance(error, WorkersLostError):
            return
        words = re.sub(r"\d+", "N", str(error))
        if isinstance(_own_cause(worker_exceptions), StorageError):
            return
        if isinstance(_own_cause(worker_exceptions), JasperRayError) or words == self._last_words:
            raise error
        self._last_words = words


def was_never_placed(error: TrainingFailedError) -> bool:
    """Whether a run ended because its workers found no place."""
    return isinstance(error, ControllerError) and isinstance(error.controller_failure, WorkerGroupStartupTimeoutError)


def training_error(error: TrainingFailedError) -> JasperRayError:
    """A failed run's reason as one of our errors, in the first worker's own words, without a traceback."""
    if isinstance(error, ControllerError) and isinstance(error.controller_failure, JasperRayError):
        return error.controller_failure
    if not isinstance(error, WorkerGroupError) or not error.worker_failures:
        return WorkersLostError(f"training failed: {_last_line(error)}")
    return worker_error(error.worker_failures)


def _own_cause(failures: Mapping[int, BaseException]) -> BaseException | None:
    """What one of our errors lies behind the failures, if one does."""
    causes = [_raised_by_training(failure) for _, failure in sorted(failures.items())]
    return next((cause for cause in causes if isinstance(cause, JasperRayError)), None)


def worker_error(worker_failures: Mapping[int, BaseException]) -> JasperRayError:
    """The failures of workers, by rank, as one error."""
    failures = sorted(worker_failures.items())
    own = [(rank, _raised_by_training(failure)) for rank, failure in failures]
    for rank, cause in own:
        if isinstance(cause, JasperRayError):
            kind = next((kind for kind in (NonFiniteError, StorageError) if isinstance(cause, kind)), JasperRayError)
            return kind(f"worker {rank} failed: {type(cause).__name__}: {cause}")
    lost = [rank for rank, cause in own if cause is None]
    if lost:
        rank, failure = next((rank, failure) for rank, failure in failures if rank in lost)
        return WorkersLostError(f"worker {rank} was lost: {_last_line(failure)}")
    for rank, cause in own:
        if cause is not None and not _says_that_a_peer_is_gone(cause):
            return JasperRayError(f"worker {rank} failed: {type(cause).__name__}: {cause}")
    rank, cause = own[0]
    return WorkersLostError(f"worker {rank} lost the others: {_last_line(cause)}")


def _raised_by_training(failure: BaseException) -> BaseException | None:
    """What the training function itself raised; None if the process is gone or no longer answers."""
    for name in ("_base_exc", "cause"):  # Ray Train's and Ray's ways to wrap what was raised elsewhere
        inner = getattr(failure, name, None)
        if isinstance(inner, BaseException):
            return _raised_by_training(inner) or inner
    return None if isinstance(failure, RayTrainError | RayError) else failure


def _says_that_a_peer_is_gone(cause: BaseException) -> bool:
    return isinstance(cause, RuntimeError) and any(word in str(cause).lower() for word in PEER_IS_GONE)


def _last_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
