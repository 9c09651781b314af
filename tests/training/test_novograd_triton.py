import copy
import subprocess
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jasper_ray.model.triton_trial import triton_runs
from jasper_ray.training import chunks
from jasper_ray.training.novograd import Novograd
from jasper_ray.training.novograd_triton import GroupUpdate, Tensors, are_fit

NO_TRITON = "triton is not installed, as without a CUDA build of torch: pip install triton"
CHUNK, BLOCK = 512, 64  # of the interpreter, which adds up a block number by number
SHAPES = [(1,), (29,), (4, 256), (50, 4, 25), (2, CHUNK), (CHUNK + 5,)]

# What is no number is multiplied, and not used.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
CompileKernels = Callable[[str, str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def triton_on_cpu(triton_interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Novograd takes its kernels, by Triton's interpreter, for tensors on the CPU."""
    monkeypatch.setattr("jasper_ray.training.novograd.triton_runs", lambda device: True)
    monkeypatch.setattr(chunks, "CHUNK", CHUNK)
    monkeypatch.setattr(chunks, "BLOCK", BLOCK)


def make(shapes: Iterable[tuple[int, ...]] = SHAPES, *, beta2: float = 0.5, **to: Any) -> Novograd:
    """Two groups: tensors with weight decay, and every third without and with another learning rate."""
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=generator).to(**to)) for shape in shapes]
    groups = [
        {"params": [weight for number, weight in enumerate(weights) if number % 3]},
        {"params": weights[::3], "lr": 0.02, "weight_decay": 0.0},
    ]
    return Novograd(groups, lr=0.1, betas=(0.9, beta2), weight_decay=0.01)


def parameters(optimizer: Novograd) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def set_grads(optimizer: Novograd, seed: int) -> None:
    """New tensors, as after `zero_grad(set_to_none=True)`; the gradients before them keep their memory until then."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters(optimizer):
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter)


def numbers(optimizer: Novograd) -> list[Tensor]:
    """All that a step changes."""
    return [
        tensor.detach().clone()
        for parameter in parameters(optimizer)
        for tensor in (parameter, *optimizer.state[parameter].values())
    ]


def torchs_steps(optimizer: Novograd, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("jasper_ray.training.novograd.triton_runs", lambda device: False)
        optimizer.step()


def assert_equal_up_to_rounding(ours: Novograd, expected: Novograd) -> None:
    torch.testing.assert_close(numbers(ours), numbers(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("beta2", [0.0, 0.98])
@pytest.mark.parametrize("found_inf", [None, 0.0])
def test_steps_are_torchs_up_to_rounding(
    beta2: float, found_inf: float | None, triton_on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, expected = make(beta2=beta2), make(beta2=beta2)
    for seed in range(4):
        for optimizer in (ours, expected):
            set_grads(optimizer, seed)
            optimizer.param_groups[0]["lr"] = 0.1 / (seed + 1)
            optimizer.found_inf = None if found_inf is None else torch.tensor(found_inf)
        grads = [parameter.grad.clone() for parameter in parameters(ours)]  # type: ignore[union-attr]
        ours.step()
        torchs_steps(expected, monkeypatch)
        assert_equal_up_to_rounding(ours, expected)
        assert all(torch.equal(p.grad, grad) for p, grad in zip(parameters(ours), grads, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_step_that_is_not_finite_changes_no_bit_and_the_next_one_is_as_if_it_had_not_been(
    steps_before: int, triton_on_cpu: None
) -> None:
    ours, undisturbed = make(), make()
    for seed in range(steps_before):
        for optimizer in (ours, undisturbed):
            set_grads(optimizer, seed)
            optimizer.step()
    set_grads(ours, 7)
    for parameter in parameters(ours):
        assert parameter.grad is not None
        parameter.grad.view(-1)[::5] = torch.nan
        parameter.grad.view(-1)[1::5] = torch.inf
    before = [parameter.detach().clone() for parameter in parameters(ours)]
    ours.found_inf = torch.tensor(1.0)
    ours.step()
    assert all(torch.equal(p, was) for p, was in zip(parameters(ours), before, strict=True))
    for optimizer in (ours, undisturbed):
        optimizer.found_inf = torch.tensor(0.0)
        set_grads(optimizer, 8)
        optimizer.step()
    assert all(map(torch.equal, numbers(ours), numbers(undisturbed)))


def test_a_tensor_of_more_chunks_than_a_block_has_numbers_is_added_up_whole(
    triton_on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 32)
    monkeypatch.setattr(chunks, "BLOCK", 32)
    ours, expected = make([(32 * 70 + 1,)]), make([(32 * 70 + 1,)])
    for optimizer in (ours, expected):
        set_grads(optimizer, 0)
    ours.step()
    torchs_steps(expected, monkeypatch)
    assert_equal_up_to_rounding(ours, expected)


def test_two_runs_give_the_same_bits(triton_on_cpu: None) -> None:
    first, again = make(), make()
    for seed in range(3):
        for optimizer in (first, again):
            set_grads(optimizer, seed)
            optimizer.step()
    assert all(map(torch.equal, numbers(first), numbers(again)))


def test_a_saved_state_goes_from_torch_to_triton_and_back(triton_on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, ours, back = make(), make(), make()
    set_grads(expected, 0)
    set_grads(ours, 9)
    torchs_steps(expected, monkeypatch)
    ours.step()  # where its state is now is not where it will be
    with torch.no_grad():
        for own, other in zip(parameters(ours), parameters(expected), strict=True):
            own.copy_(other)
    ours.load_state_dict(copy.deepcopy(expected.state_dict()))
    for optimizer in (expected, ours):
        set_grads(optimizer, 1)
    ours.step()
    torchs_steps(expected, monkeypatch)
    assert_equal_up_to_rounding(ours, expected)

    with torch.no_grad():
        for own, other in zip(parameters(back), parameters(ours), strict=True):
            own.copy_(other)
    back.load_state_dict(copy.deepcopy(ours.state_dict()))
    for optimizer in (expected, back):
        set_grads(optimizer, 2)
        torchs_steps(optimizer, monkeypatch)
    assert_equal_up_to_rounding(back, expected)


def test_a_copy_of_the_optimizer_makes_steps_too(triton_on_cpu: None) -> None:
    optimizer = make([(3,), (4,)])
    set_grads(optimizer, 0)
    optimizer.step()
    twin = copy.deepcopy(optimizer)
    for one in (optimizer, twin):
        set_grads(one, 1)
        one.step()
    assert all(map(torch.equal, numbers(optimizer), numbers(twin)))


def test_parameters_that_stop_learning_and_start_again_are_torchs(
    triton_on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, expected = make(), make()
    for seed, frozen in enumerate([(), (1, 2), ()]):
        for optimizer in (ours, expected):
            set_grads(optimizer, seed)
            for number in frozen:
                parameters(optimizer)[number].grad = None
        ours.step()
        torchs_steps(expected, monkeypatch)
    assert_equal_up_to_rounding(ours, expected)


def test_addresses_are_sent_only_when_they_have_changed(triton_on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    on = chunks._on
    monkeypatch.setattr(chunks, "_on", lambda device, values, dtype: sent.append(1) or on(device, values, dtype))
    optimizer = make([(3,), (4,)])
    set_grads(optimizer, 0)
    counts = []
    for grads_are_new in (False, False, True, False):
        if grads_are_new:
            old = [parameter.grad for parameter in parameters(optimizer)]
            set_grads(optimizer, 1)
            del old
        sent.clear()
        optimizer.step()
        counts.append(len(sent))
    assert counts == [8, 0, 2, 0]  # two groups: three tables of sizes and one of addresses


def test_dense_layouts_and_memory_off_sixteen_bytes_are_updated_as_torch_does(
    triton_on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for by_triton in (True, False):
        torch.manual_seed(0)
        transposed = nn.Parameter(torch.randn(26, 30).t())
        off = nn.Parameter(torch.randn(1026)[1:])
        optimizer = Novograd([transposed, off], lr=0.1)
        for _ in range(2):
            transposed.grad = torch.randn(26, 30).t()
            off.grad = torch.randn(1028)[3:]
            if by_triton:
                assert all(are_fit(optimizer._tensors(one), one.device) for one in (transposed, off))
                optimizer.step()
            else:
                torchs_steps(optimizer, monkeypatch)
        results.append(optimizer)
    assert_equal_up_to_rounding(*results)


def fit_tensors(**others: Tensor) -> Tensors:
    wide = Tensors(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3), torch.ones(()))
    return wide._replace(**others)


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (fit_tensors(), True),
        (fit_tensors(grad=torch.ones(3, 2).t()), False),
        (fit_tensors(grad=torch.ones(2, 4)[:, :3]), False),
        (fit_tensors(grad=torch.ones(2, 3, dtype=torch.float16)), False),
        (fit_tensors(momentum=torch.ones(3, 2).t()), False),
        (fit_tensors(square=torch.ones((), dtype=torch.float64)), False),
        (fit_tensors(grad=torch.ones(2, 3).to_sparse()), False),
        (fit_tensors(grad=torch.ones(2, 3, device="meta")), False),
        (Tensors(*(torch.ones(3, 2).t() for _ in range(3)), torch.ones(())), True),
        (Tensors(*(torch.ones(2, 4)[:, :3] for _ in range(3)), torch.ones(())), False),
        (Tensors(*(torch.ones(1, 3).expand(2, 3) for _ in range(3)), torch.ones(())), False),
        (Tensors(*(torch.ones(0) for _ in range(3)), torch.ones(())), False),
        (Tensors(torch.ones(4, 3, 1), torch.ones(4, 1, 3).transpose(1, 2), torch.ones(4, 3, 1), torch.ones(())), True),
    ],
)
def test_tensors_are_fit_that_are_fp32_in_one_place_in_one_order_without_gaps(tensors: Tensors, expected: bool) -> None:
    assert are_fit(tensors, torch.device("cpu")) == expected


def test_what_is_not_fit_is_updated_by_torch_beside_what_is(
    triton_on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_kernels: list[int] = []
    run = GroupUpdate.run

    def counted(self: GroupUpdate, tensors: list[Tensors], **settings: object) -> None:
        by_kernels.append(len(tensors))
        run(self, tensors, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(GroupUpdate, "run", counted)
    ours, expected = (Novograd(parameters(make([(3,), (6, 4), (5,)])), lr=0.1) for _ in range(2))
    for optimizer in (ours, expected):
        optimizer.found_inf = torch.tensor(0.0)
        set_grads(optimizer, 0)
        parameters(optimizer)[0].grad = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).t()
        assert parameters(optimizer)[0].shape == (6, 4)
    ours.step()
    torchs_steps(expected, monkeypatch)
    assert by_kernels == [2]
    assert_equal_up_to_rounding(ours, expected)


def test_versions_of_updated_weights_are_counted(triton_on_cpu: None) -> None:
    optimizer = make([(3,), (4,)])
    before = [parameter._version for parameter in parameters(optimizer)]
    set_grads(optimizer, 0)
    optimizer.step()
    assert all(p._version > version for p, version in zip(parameters(optimizer), before, strict=True))


COMPILE = """
import re
from jasper_ray.training import novograd_kernels
types = dict.fromkeys(("owners", "first"), "*i32") | dict.fromkeys(("pointers", "sizes"), "*i64")
types |= dict.fromkeys(("partials", "scales", "found_inf"), "*fp32")
types |= dict.fromkeys(("lr", "beta1", "beta2", "rest_of_beta2", "eps", "weight_decay"), "fp32")
for kernel, constants, wide in (
    (novograd_kernels.squares_kernel, {"CHUNK": 16384, "BLOCK": 1024}, ["ld.global.v4"]),
    (novograd_kernels.scales_kernel, {"BLOCK": 1024}, []),
    (novograd_kernels.update_kernel, {"CHUNK": 16384, "BLOCK": 1024}, ["ld.global.v4", "st.global.v4"]),
    (novograd_kernels.scales_kernel, {"BLOCK": 1024, "found_inf": None}, []),
    (novograd_kernels.update_kernel, {"CHUNK": 16384, "BLOCK": 1024, "found_inf": None}, []),
):
    asm = compiled(kernel, constants, types).asm
    assert not re.search(r"\\b(red|atom)\\.", asm["ptx"])
    assert all(instruction in asm["ptx"] for instruction in wide)
    print(len(asm["cubin"]) > 0)
"""


@pytest.mark.parametrize("capability", ["80", "90"])
def test_the_kernels_compile_for_nvidias_gpus_without_atomic_sums_and_take_four_numbers_at_a_time(
    capability: str, compile_kernels: CompileKernels
) -> None:
    done = compile_kernels(COMPILE, capability)
    assert done.stdout.split() == ["True"] * 5, done.stderr


@pytest.mark.gpu
def test_on_a_gpu_steps_are_the_cpus_without_a_wait_of_the_host_and_repeat_bit_for_bit() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    pytest.importorskip("triton", reason=NO_TRITON)
    shapes = [*SHAPES, (50000,), (896, 768, 29)]
    # In float64: torch's sums of millions of squares in fp32 are off in the fifth digit on a CPU.
    expected = make(shapes, dtype=torch.float64)
    ours, again = make(shapes, device="cuda"), make(shapes, device="cuda")
    assert triton_runs(parameters(ours)[0].device)
    for seed in range(4):
        finite = seed != 2
        for optimizer in (expected, ours, again):
            set_grads(optimizer, seed)
            if not finite:
                parameters(optimizer)[-1].grad[0] = torch.nan  # type: ignore[index]
            optimizer.found_inf = torch.tensor(0.0 if finite else 1.0).to(parameters(optimizer)[0].device)
        expected.step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            ours.step()
            again.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(map(torch.equal, numbers(ours), numbers(again)))
    for on_gpu, wanted in zip(numbers(ours), numbers(expected), strict=True):
        torch.testing.assert_close(on_gpu.cpu(), wanted.float(), rtol=1e-5, atol=1e-5)
