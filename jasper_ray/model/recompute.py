"""Activation checkpointing: a block keeps its inputs only, and is computed a second time when its gradient is due."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

_RECOMPUTING = ContextVar("recomputing", default=False)


def is_recomputing() -> bool:
    """Whether this forward pass is a repetition: what it would add up has been counted."""
    return _RECOMPUTING.get()


def recomputed(block: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """`block(*inputs)`, for its gradient computed again with the same random draws."""
    y: Tensor = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=True, context_fn=_contexts)
    return y


def _contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _repetition()


@contextmanager
def _repetition() -> Iterator[None]:
    # Entered in the thread that repeats, which on a GPU is one of autograd's.
    token = _RECOMPUTING.set(True)
    try:
        yield
    finally:
        _RECOMPUTING.reset(token)
