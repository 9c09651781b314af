import subprocess
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from jasper_ray.model.ctc import ctc_losses
from jasper_ray.model.ctc_triton import ctc_losses_triton

INF = float("inf")
NO_TRITON = "triton is not installed, as without a CUDA build of torch: pip install triton"
Losses = Callable[..., Tensor]

# The interpreter is numpy, which warns of log(0).
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
CompileKernels = Callable[[str, str], "subprocess.CompletedProcess[str]"]


def torch_losses(log_probs: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor, *, blank: int) -> Tensor:
    """In the precision of `log_probs`."""
    by_frame = log_probs.transpose(0, 1)
    return functional.ctc_loss(by_frame, labels, lengths, label_lengths, blank=blank, reduction="none")


def losses_and_gradient(
    losses_of: Losses, logits: Tensor, given: tuple[Tensor, Tensor, Tensor], blank: int
) -> tuple[Tensor, Tensor]:
    """Losses and the gradient of their weighted sum with respect to what log-softmax is given; both float64."""
    logits = logits.detach().clone().requires_grad_()
    losses = losses_of(logits.log_softmax(2), *given, blank=blank)
    weights = torch.arange(1, len(losses) + 1, device=losses.device, dtype=losses.dtype)
    (gradient,) = torch.autograd.grad(losses @ weights, logits)
    return losses.detach().double(), gradient.double()


def assert_equals_torch(logits: Tensor, given: tuple[Tensor, Tensor, Tensor], blank: int) -> None:
    ours = losses_and_gradient(ctc_losses_triton, logits, given, blank)
    theirs = losses_and_gradient(torch_losses, logits.double(), given, blank)
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


CASES = {
    "different lengths": ([8, 7, 5], [[0, 1, 2, 3], [3, 1, 0, 0], [2, 0, 0, 0]], [4, 2, 1]),
    "repeated labels": ([8, 5, 8], [[1, 1, 1, 1], [2, 2, 0, 0], [0, 1, 1, 0]], [4, 3, 4]),
    "just enough frames": ([4, 5, 7], [[0, 1, 2, 3], [0, 0, 1, 2], [1, 1, 1, 1]], [4, 4, 4]),
    "garbage after the labels": ([8, 8, 8], [[0, 99, -7, 1], [1, 2, 10**9, 1], [-1, -1, -1, -1]], [1, 2, 0]),
    "no labels": ([8, 1, 0], [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2]], [0, 0, 0]),
    "no frames": ([0, 0, 8], [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2]], [1, 4, 1]),
    "too few frames": ([3, 8, 6], [[0, 1, 2, 3], [0, 1, 2, 3], [1, 1, 1, 1]], [4, 4, 4]),
}


def ids_beside(blank: int, labels: list[list[int]]) -> Tensor:
    """Label ids of a vocabulary in which the blank stands where it is wanted; garbage stays garbage."""
    return torch.tensor([[label + (0 <= blank <= label < 5) for label in row] for row in labels])


@pytest.mark.parametrize("blank", [0, 5])
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_of_logits_are_torchs_in_float64(case: str, blank: int, triton_interpreter: None) -> None:
    lengths, labels, label_lengths = CASES[case]
    torch.manual_seed(blank)
    given = torch.tensor(lengths), ids_beside(blank, labels), torch.tensor(label_lengths)
    assert_equals_torch(3 * torch.randn(3, 8, 6), given, blank)


@pytest.mark.parametrize(
    ("frames", "vocabulary", "num_labels"),
    [(34, 4, 3), (5, 70, 2), (40, 29, 36), (1, 1, 0), (1, 2, 1)],
    ids=["two blocks of frames", "two blocks of ids", "more than a warp of lanes", "a blank only", "one of each"],
)
def test_sizes_on_both_sides_of_a_block_are_right(
    frames: int, vocabulary: int, num_labels: int, triton_interpreter: None
) -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, max(vocabulary - 1, 1), (1, num_labels))
    given = torch.tensor([frames]), labels, torch.tensor([num_labels])
    assert_equals_torch(torch.randn(1, frames, vocabulary), given, blank=vocabulary - 1)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_any_integers_will_do_for_lengths_and_labels(dtype: torch.dtype, triton_interpreter: None) -> None:
    torch.manual_seed(0)
    given = tuple(torch.tensor(values).to(dtype) for values in ([6, 4], [[0, 1], [2, 2]], [2, 2]))
    assert_equals_torch(torch.randn(2, 6, 4), given, blank=3)  # type: ignore[arg-type]


def test_an_utterance_that_does_not_fit_is_infinite_with_undefined_gradients_and_leaves_the_others_alone(
    triton_interpreter: None,
) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 8, 5)
    given = torch.tensor([3, 8]), torch.tensor([[1, 1, 2], [1, 1, 2]]), torch.tensor([3, 3])
    losses, gradient = losses_and_gradient(ctc_losses_triton, logits, given, blank=0)
    assert losses[0] == INF and losses[1].isfinite()
    assert gradient[0, :3].isnan().all() and gradient[0, 3:].eq(0).all() and gradient[1].isfinite().all()


def test_an_id_that_is_no_label_makes_its_own_loss_infinite(triton_interpreter: None) -> None:
    labels = torch.tensor([[0, 3], [0, -1], [0, 1]])
    losses = ctc_losses_triton(torch.zeros(3, 8, 3), torch.full((3,), 8), labels, torch.tensor([2, 2, 2]), blank=2)
    assert losses.isinf().tolist() == [True, True, False]


def test_lengths_beyond_the_tensors_count_as_their_sizes(triton_interpreter: None) -> None:
    torch.manual_seed(0)
    log_probs, labels = torch.randn(2, 6, 4).log_softmax(2), torch.tensor([[0, 1], [2, 1]])
    given = torch.tensor([60, 6]), labels, torch.tensor([2, 20])
    expected = ctc_losses_triton(log_probs, torch.tensor([6, 6]), labels, torch.tensor([2, 2]), blank=3)
    assert torch.equal(ctc_losses_triton(log_probs, *given, blank=3), expected)


def test_the_gradient_of_log_probs_is_minus_the_posterior(triton_interpreter: None) -> None:
    torch.manual_seed(0)
    log_probs = torch.randn(2, 6, 4).log_softmax(2).requires_grad_()
    losses = ctc_losses_triton(
        log_probs, torch.tensor([6, 4]), torch.tensor([[0, 0], [2, 1]]), torch.tensor([2, 2]), blank=3
    )
    (gradient,) = torch.autograd.grad(losses.sum(), log_probs)
    torch.testing.assert_close(gradient.sum(2), -torch.tensor([[1.0] * 6, [1.0] * 4 + [0.0] * 2]))
    assert gradient[0, :, 1:3].eq(0).all() and gradient[1, :, 0].eq(0).all()


def test_what_has_no_probability_has_no_gradient_and_hurts_nobody(triton_interpreter: None) -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 6, 4)
    logits[0, 2, 3] = logits[0, 4, 0] = -INF
    log_probs = logits.log_softmax(2).requires_grad_()
    given = torch.tensor([6]), torch.tensor([[0, 1]]), torch.tensor([2])
    losses = ctc_losses_triton(log_probs, *given, blank=3)
    (gradient,) = torch.autograd.grad(losses.sum(), log_probs)
    torch.testing.assert_close(losses, ctc_losses(log_probs, *given, blank=3))
    torch.testing.assert_close(gradient.sum(2), -torch.ones(1, 6))
    assert gradient[0, 2, 3] == gradient[0, 4, 0] == 0


def test_frames_beyond_the_length_are_not_looked_at(triton_interpreter: None) -> None:
    torch.manual_seed(0)
    log_probs = torch.randn(1, 6, 4).log_softmax(2)
    given = torch.tensor([4]), torch.tensor([[0, 1]]), torch.tensor([2])
    results = []
    for padding in (0.0, float("nan")):
        padded = log_probs.clone()
        padded[:, 4:] = padding
        padded.requires_grad_()
        losses = ctc_losses_triton(padded, *given, blank=3)
        results.append((losses, *torch.autograd.grad(losses.sum(), padded)))
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


def test_a_loss_that_is_undefined_in_a_frame_is_undefined(triton_interpreter: None) -> None:
    log_probs = torch.zeros(1, 6, 4)
    log_probs[0, 3] = float("nan")
    given = torch.tensor([6]), torch.tensor([[0, 1]]), torch.tensor([2])
    assert not ctc_losses_triton(log_probs, *given, blank=3).isfinite()


def test_two_calls_give_the_same_bits_and_so_does_a_batch(triton_interpreter: None) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 10, 5)
    given = torch.tensor([10, 7]), torch.tensor([[0, 0, 1], [3, 1, 0]]), torch.tensor([3, 2])
    first, again = (losses_and_gradient(ctc_losses_triton, logits, given, blank=4) for _ in range(2))
    alone = losses_and_gradient(ctc_losses_triton, logits[:1], tuple(value[:1] for value in given), blank=4)  # type: ignore[arg-type]
    for one, other, of_first in zip(first, again, alone, strict=True):
        assert torch.equal(one, other) and torch.equal(one[:1], of_first)


def test_a_second_backward_pass_gives_the_first_ones_gradient(triton_interpreter: None) -> None:
    logits = torch.randn(1, 6, 4, requires_grad=True)
    given = torch.tensor([6]), torch.tensor([[0, 1]]), torch.tensor([2])
    losses = ctc_losses_triton(logits.log_softmax(2), *given, blank=3).sum()
    first, second = (torch.autograd.grad(losses, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second) and first.abs().sum() > 0


def test_rows_of_more_labels_than_a_program_has_lanes_go_to_torch() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 4, (2, 1024))
    given = torch.tensor([9, 7]), labels, torch.tensor([3, 2])
    log_probs = torch.randn(2, 9, 5).log_softmax(2)
    assert torch.equal(ctc_losses_triton(log_probs, *given, blank=4), ctc_losses(log_probs, *given, blank=4))


COMPILE = """
import re
from jasper_ray.model import ctc_kernels
pointers = dict.fromkeys(("log_probs", "losses", "scores", "gradient"), "*fp32")
pointers |= dict.fromkeys(("lengths", "labels", "label_lengths"), "*i64")
sizes = dict.fromkeys(("num_frames", "max_labels", "vocabulary", "blank"), "i32")
for kernel, constants, options in (
    (ctc_kernels.forward_kernel, {"KEEP": True, "LANES": 256}, {"num_warps": 8}),
    (ctc_kernels.backward_kernel, {"LANES": 256}, {"num_warps": 8}),
    (ctc_kernels.gradient_kernel, {"FRAMES": 32, "IDS": 32}, {}),
):
    asm = compiled(kernel, constants, pointers | sizes, **options).asm
    assert not re.search(r"\\b(red|atom)\\.", asm["ptx"])
    print(len(asm["cubin"]) > 0)
"""


@pytest.mark.parametrize("capability", ["80", "90"])
def test_the_kernels_compile_for_nvidias_gpus_without_atomic_sums(
    capability: str, compile_kernels: CompileKernels
) -> None:
    done = compile_kernels(COMPILE, capability)
    assert done.stdout.split() == ["True"] * 3, done.stderr


def gpu_case(seed: int) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Four utterances of up to 200 frames and 60 labels; the last is too long."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 28, (4, 60), generator=generator)
    given = torch.tensor([200, 170, 90, 20]), labels, torch.tensor([60, 41, 0, 30])
    return torch.randn(4, 200, 29, generator=generator), given


@pytest.mark.gpu
def test_forward_and_backward_are_captured_in_a_cuda_graph_and_right_for_other_inputs_too() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    pytest.importorskip("triton", reason=NO_TRITON)
    logits, given = gpu_case(0)
    logits, given = logits.cuda(), tuple(tensor.cuda() for tensor in given)  # type: ignore[assignment]
    logits.requires_grad_()
    weights = torch.arange(1.0, 5.0, device="cuda")

    def run() -> tuple[Tensor, Tensor]:
        losses = ctc_losses_triton(logits.log_softmax(2), *given, blank=28)
        return losses.detach(), torch.autograd.grad(losses @ weights, logits)[0]

    # Compiled before the capture, on another stream, as torch asks for.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for seed in (1, 2):
        other_logits, others = gpu_case(seed)
        others = others[0] - 10 * (seed - 1), *others[1:]
        with torch.no_grad():
            logits.copy_(other_logits)
            for static, other in zip(given, others, strict=True):
                static.copy_(other)
        graph.replay()
        first = [tensor.clone() for tensor in captured]
        graph.replay()
        for mine, again in zip(first, captured, strict=True):
            torch.testing.assert_close(mine, again, rtol=0, atol=0, equal_nan=True)
        expected = losses_and_gradient(torch_losses, other_logits.double(), others, blank=28)
        for mine, theirs in zip(first, expected, strict=True):
            torch.testing.assert_close(mine.cpu().double(), theirs, rtol=1e-4, atol=5e-4, equal_nan=True)


@pytest.mark.gpu
def test_losses_on_a_gpu_are_torchs_without_a_wait_of_the_host() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    pytest.importorskip("triton", reason=NO_TRITON)
    logits, given = gpu_case(3)
    on_gpu = logits.cuda(), tuple(tensor.cuda() for tensor in given)
    losses_and_gradient(ctc_losses_triton, *on_gpu, blank=28)  # type: ignore[arg-type]
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours = losses_and_gradient(ctc_losses_triton, *on_gpu, blank=28)  # type: ignore[arg-type]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for mine, theirs in zip(ours, losses_and_gradient(torch_losses, logits.double(), given, blank=28), strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-4, atol=5e-4, equal_nan=True)
