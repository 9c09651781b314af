"""The exceptions that callers catch by type; everything else is a `ValueError` or a bug."""


class JasperRayError(Exception):
    """Base of the errors below: a job prints its message and exits with 1, without a traceback."""


class ConfigError(JasperRayError, ValueError):
    """A config file or override is wrong: names the file, the key, the value and what is allowed."""


class LeaseError(JasperRayError):
    """Another run writes to the same output: names it, where it runs and what to do."""


class StorageError(JasperRayError, OSError):
    """An object or folder could not be read or written: names it, the store and what it said."""


class DataError(JasperRayError, ValueError):
    """A corpus, manifest or shard is wrong: names the file or utterance and the reason."""


class AudioError(DataError):
    """Bytes that are not the audio they should be: says what they are instead."""


class BundleError(JasperRayError, ValueError):
    """A model bundle is missing a part or does not fit: names the part and what was expected."""


class CheckpointError(JasperRayError):
    """A checkpoint is incomplete or damaged: names the file and what differs."""


class ResumeError(CheckpointError):
    """A good checkpoint that belongs to another run: names both sides of the difference."""


class CapacityError(JasperRayError):
    """The cluster cannot hold the job: says what was asked for and what there is."""


class NonFiniteError(JasperRayError):
    """Training met infinite or undefined losses beyond its patience: names the utterances."""


class WorkersLostError(JasperRayError):
    """Training ended because workers or nodes were lost, by no fault of its own: names them; the run can go on."""
