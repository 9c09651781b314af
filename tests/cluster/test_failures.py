import pickle

import pytest
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from jasper_ray.cluster.failures import StopOnOwnErrors, training_error
from jasper_ray.errors import DataError, JasperRayError, NonFiniteError, StorageError, WorkersLostError

PEER_GONE = RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer [10.0.0.2]:4711")
DEAD = WorkerHealthCheckFailedError("A worker health check failed.", failure=RuntimeError("the actor died"))


def failures(**by_rank: BaseException) -> dict[int, Exception]:
    return {
        int(rank[1:]): error if error is DEAD else UserExceptionWithTraceback(error, "trace")  # type: ignore[misc]
        for rank, error in by_rank.items()
    }


def test_an_error_of_ours_ends_the_run_at_once_however_many_failures_are_allowed() -> None:
    stop = StopOnOwnErrors()
    with pytest.raises(JasperRayError, match=r"worker 1 failed: DataError: shard 3 is damaged"):
        stop.after_exception(None, failures(r0=PEER_GONE, r1=DataError("shard 3 is damaged")))
    with pytest.raises(NonFiniteError):
        StopOnOwnErrors().after_exception(None, failures(r0=NonFiniteError("diverged")))


def test_lost_workers_and_stores_that_do_not_answer_are_left_to_max_failures() -> None:
    stop = StopOnOwnErrors()
    for _ in range(3):
        stop.after_exception(None, failures(r0=PEER_GONE, r1=DEAD))
        stop.after_exception(None, failures(r0=PEER_GONE))
        stop.after_exception(None, failures(r0=StorageError("s3://b/x: failed after 9 attempts"), r1=PEER_GONE))


def test_any_other_error_of_training_gets_a_second_try_but_no_third_one() -> None:
    stop = StopOnOwnErrors()
    stop.after_exception(None, failures(r0=KeyError("x"), r1=PEER_GONE))
    stop.after_exception(None, failures(r0=ValueError("another")))
    stop.after_exception(None, failures(r0=RuntimeError("out of memory: 17 MiB")))
    with pytest.raises(JasperRayError, match="worker 0 failed: RuntimeError: out of memory"):
        stop.after_exception(None, failures(r0=RuntimeError("out of memory: 18 MiB")))


def test_what_ended_the_run_in_the_controller_is_the_runs_error() -> None:
    error = pickle.loads(pickle.dumps(ControllerError(JasperRayError("worker 1 failed: no"))))
    assert str(training_error(error)) == "worker 1 failed: no"
    lost = training_error(WorkerGroupError("", failures(r0=PEER_GONE, r2=DEAD)))
    assert isinstance(lost, WorkersLostError) and "worker 2 was lost" in str(lost)


def test_a_store_that_did_not_answer_a_worker_is_told_from_an_error_of_training() -> None:
    error = training_error(WorkerGroupError("", failures(r0=StorageError("s3://b/x: failed after 9 attempts"))))
    assert isinstance(error, StorageError) and "worker 0 failed: StorageError: s3://b/x" in str(error)
