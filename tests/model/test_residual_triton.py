import subprocess
from collections.abc import Callable

import pytest
import torch

from jasper_ray.model.residual_triton import gather, join


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter is numpy
@pytest.mark.parametrize(("rows", "frames", "channels"), [(2, 37, 29), (1, 70, 130), (3, 1, 16)])
def test_sources_are_gathered_and_their_gradients_joined_as_by_torch(
    rows: int, frames: int, channels: int, triton_interpreter: None
) -> None:
    torch.manual_seed(0)
    x, grad_x = (torch.randn(rows, frames, channels).half().transpose(1, 2) for _ in range(2))
    wide = torch.full((rows * frames, channels + 24), 7.0).half()
    values = wide[:, 8 : 8 + channels]
    total = gather(x, values)
    flat = x.transpose(1, 2).reshape(-1, channels)
    assert torch.equal(values, flat) and bool((wide[:, :8] == 7).all()) and bool((wide[:, 8 + channels :] == 7).all())
    torch.testing.assert_close(total, flat.float().sum(0), atol=1e-4, rtol=1e-5)
    grads, through = torch.randn_like(wide)[:, 16 : 16 + channels], torch.randn_like(flat)
    scale, level = torch.tensor(0.3), torch.randn(channels)
    joined = join(grad_x, grads, through, scale, level)
    expected = grad_x.transpose(1, 2).reshape(-1, channels).float() + grads + through.float() * scale + level
    assert joined.shape == x.shape and joined.dtype == x.dtype
    torch.testing.assert_close(
        joined.transpose(1, 2).reshape(-1, channels).float(), expected.half().float(), atol=1e-3, rtol=2e-3
    )


COMPILE = """
from jasper_ray.model import residual_kernels as kernels
types = dict.fromkeys(("x", "values", "grad_x", "grads", "through", "joined"), "*bf16")
types |= dict.fromkeys(("sums", "scale", "level"), "*fp32")
shape = {"PITCH": 5376, "NUM_CHANNELS": 512, "FRAMES": 32, "CHANNELS": 128}
for kernel in (kernels.gather_kernel, kernels.join_kernel):
    names = [name for name in kernel.arg_names if name in types]
    asm = compiled(kernel, shape, types, aligned=names).asm
    print(all(instruction in asm["ptx"] for instruction in ("ld.global.v4", "st.global.v4")))
"""


@pytest.mark.parametrize("capability", ["80", "90"])
def test_the_kernels_compile_for_nvidias_gpus_and_move_16_bytes_at_once(
    capability: str, compile_kernels: Callable[[str, str], "subprocess.CompletedProcess[str]"]
) -> None:
    done = compile_kernels(COMPILE, capability)
    assert done.stdout.split() == ["True"] * 2, done.stderr
