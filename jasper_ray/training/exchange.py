"""How workers exchange gradients: DDP's buckets, sent while the last backward pass of a step still runs."""

import warnings

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from jasper_ray.config.schema import GradientsConfig
from jasper_ray.training.world import World


def exchanging_gradients(model: nn.Module, world: World, config: GradientsConfig) -> nn.Module:
    """The model as one whose backward pass averages gradients over all workers; itself if it is the only one."""
    if world.size == 1 or not any(parameter.requires_grad for parameter in model.parameters()):
        return model
    ids = [world.device.index] if world.device.type == "cuda" else None
    with warnings.catch_warnings():  # newer torch renames broadcast_buffers, older torch has no other name
        warnings.simplefilter("ignore", FutureWarning)
        parallel = DistributedDataParallel(
            model,
            device_ids=ids,
            broadcast_buffers=False,  # running statistics are combined by us, once a step; DDP would copy rank 0's
            gradient_as_bucket_view=True,
            static_graph=config.static_graph,
            bucket_cap_mb=config.bucket_mb,
        )
    if config.compression == "powersgd":
        state = powerSGD_hook.PowerSGDState(
            process_group=None,
            matrix_approximation_rank=config.powersgd_rank,
            start_powerSGD_iter=config.powersgd_start_step,
        )
        parallel.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        parallel.jasper_powersgd = state  # type: ignore[assignment]
    elif config.compression != "none":
        hooks = {"bf16": _bf16_hook, "fp16": default_hooks.fp16_compress_hook}
        parallel.register_comm_hook(None, hooks[config.compression])
    return parallel


def forget_errors(parallel: nn.Module) -> None:
    """Begin PowerSGD's carrying over anew; nothing where it is not in use."""
    state = getattr(parallel, "jasper_powersgd", None)
    if state is not None:
        for carried in (state.error_dict, state.p_memory_dict, state.q_memory_dict):
            carried.clear()


def _bf16_hook(
    group: dist.ProcessGroup,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> Future[Tensor]:
    """Torch's own, which DDP refuses by its name where the backend is not NCCL, though gloo sums bf16 too."""
    return default_hooks.bf16_compress_hook(group, bucket)


def set_tf32(allowed: bool) -> None:
    """Let a GPU round the factors of fp32 products and convolutions to 10 bits, or forbid it; for the whole process."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
