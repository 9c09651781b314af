"""The mean of several sets of weights of one model: checkpoints of a run, or bundles."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from jasper_ray.errors import BundleError, CheckpointError
from jasper_ray.model.bundle import Bundle, BundleConfig, load_bundle
from jasper_ray.storage import object_store
from jasper_ray.training.checkpoint import BUNDLE, CHECKSUMS_FILE, find_checkpoints, verify_checkpoint


def newest_checkpoints(output: str, count: int) -> list[str]:
    """The newest `count` complete checkpoints of a run, oldest first.

    Raises:
        CheckpointError: There are fewer.
    """
    found = find_checkpoints(output)
    if len(found) < count:
        raise CheckpointError(
            f"{output} holds {len(found)} checkpoints, {count} were asked for: a run keeps the last "
            "checkpoint.keep_last and those of checkpoint.keep_epochs"
        )
    return found[-count:]


def average_bundles(sources: Sequence[str], *, plain_weights: bool = False) -> tuple[BundleConfig, dict[str, Tensor]]:
    """The mean of the weights of bundles, or of the bundles in checkpoints, whose files are checked first.

    Everything is averaged alike, batch norm's running means and variances too; a counter is the largest. (The variance
    of a mixture would be larger by that of the means, which is small against it for checkpoints of one run.)

    Args:
        sources: Folders of bundles or checkpoints of one model; one is held in memory at a time.
        plain_weights: Take the weights without averaging over steps (EMA) instead of the deployed ones.

    Returns:
        The description of the last source, with `training` telling what went in, and the mean.

    Raises:
        CheckpointError: A checkpoint is damaged.
        BundleError: One is no bundle, or belongs to another model, alphabet or features.
    """
    sums: dict[str, Tensor] = {}
    first, bundle = None, None
    for source in sources:
        bundle = _load(source, plain_weights=plain_weights)
        first = first or bundle
        _require_same_kind(first, bundle, sources[0], source)
        _add(sums, bundle.model.state_dict().items())
    if bundle is None:
        raise BundleError("there is nothing to average: name checkpoints or bundles")
    mean = {
        name: (total / len(sources)).to(bundle.model.state_dict()[name].dtype) if total.is_floating_point() else total
        for name, total in sums.items()
    }
    training = {
        **{key: value for key, value in bundle.config.training.items() if key not in ("wer", "cer")},
        "averaged_from": [object_store.absolute(source) for source in sources],
        "averaged_plain_weights": plain_weights,
    }
    return bundle.config.model_copy(update={"training": training}), mean


def _load(source: str, *, plain_weights: bool) -> Bundle:
    if object_store.exists(object_store.join(source, CHECKSUMS_FILE)):
        verify_checkpoint(source)
        source = object_store.join(source, BUNDLE)
    return load_bundle(source, plain_weights=plain_weights)


def _require_same_kind(first: Bundle, other: Bundle, first_name: str, name: str) -> None:
    for what in ("model", "text", "features"):
        ours, theirs = getattr(other.config, what), getattr(first.config, what)
        if ours != theirs:
            raise BundleError(
                f"{name} has another {what} than {first_name}: {ours.model_dump()} instead of {theirs.model_dump()}; "
                "only weights of one model have a mean"
            )


@torch.no_grad()
def _add(sums: dict[str, Tensor], weights: Iterable[tuple[str, Tensor]]) -> None:
    """Sums in float64, so that the mean does not depend on the order; counters take the largest."""
    for name, tensor in weights:
        if not tensor.is_floating_point():
            sums[name] = torch.maximum(sums[name], tensor) if name in sums else tensor.clone()
        elif name in sums:
            sums[name] += tensor
        else:
            sums[name] = tensor.double()
