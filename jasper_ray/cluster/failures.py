"""Why a Ray Train run failed: by an error of its own, or because workers were taken from it."""

from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from jasper_ray.errors import JasperRayError, NonFiniteError, WorkersLostError

PEER_IS_GONE = ("gloo", "nccl", "connection closed by peer", "connection reset", "socket")
"""What the processes that are left say in a collective operation when one of them has died."""


def training_error(error: TrainingFailedError) -> JasperRayError:
    """A failed run's reason as one of our errors, in the first worker's own words, without a traceback."""
    if not isinstance(error, WorkerGroupError) or not error.worker_failures:
        return WorkersLostError(f"training failed: {_last_line(error)}")
    failures = sorted(error.worker_failures.items())
    own = [(rank, _raised_by_training(failure)) for rank, failure in failures]
    for rank, cause in own:
        if isinstance(cause, JasperRayError):
            kind = NonFiniteError if isinstance(cause, NonFiniteError) else JasperRayError
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
    return None


def _says_that_a_peer_is_gone(cause: BaseException) -> bool:
    return isinstance(cause, RuntimeError) and any(word in str(cause).lower() for word in PEER_IS_GONE)


def _last_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
