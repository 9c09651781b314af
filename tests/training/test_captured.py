from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.config.schema import GradientsConfig, OptimizerConfig, TrainingConfig
from jasper_ray.data.batch import Batch
from jasper_ray.model.convolution import set_convolution_method
from jasper_ray.model.ctc_triton import MAX_LABELS
from jasper_ray.model.jasper import Jasper
from jasper_ray.training.captured import MAX_GRAPHS, CapturedPasses, Shape
from jasper_ray.training.ema import WeightAverage
from jasper_ray.training.gradients import ALIGNMENT, FlatGradients
from jasper_ray.training.optimizers import build_optimizer
from jasper_ray.training.step import TrainStep
from jasper_ray.training.world import World

CPU = torch.device("cpu")


def padded_batch(seed: int, *, rows: int = 3, frames: int = 64, labels: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(frames // 2, frames + 1, (rows,), generator=generator)
    return Batch(
        features=torch.randn(rows, 8, frames, generator=generator),
        feature_lengths=lengths,
        labels=torch.randint(0, 28, (rows, labels), generator=generator),
        label_lengths=torch.randint(1, labels + 1, (rows,), generator=generator),
        indices=tuple(range(rows)),
        audio_s=float(lengths.sum()) / 100,
        longest=int(lengths.max()),
    )


def packed_batch(seed: int, *, utterances: int) -> Batch:
    """Rows of 256 frames with up to three utterances in each."""
    one = padded_batch(seed, rows=utterances, frames=48)
    places = torch.tensor([(i // 3, 80 * (i % 3)) for i in range(utterances)])
    rows = torch.zeros(-(-utterances // 3), 8, 256)
    for (row, start), features, length in zip(places.tolist(), one.features, one.feature_lengths, strict=True):
        rows[row, :, start : start + length] = features[:, :length]
    return replace(one, features=rows, places=places)


def small_step(*, dropout: float = 0.0, device: str = "cpu", **config: Any) -> TrainStep:
    torch.manual_seed(0)
    blocks = (
        BlockConfig(filters=32, kernel=11, stride=2, dropout=dropout),
        BlockConfig(filters=32, kernel=5, residual="dense", repeat=2, dropout=dropout),
        BlockConfig(filters=16, kernel=1, dropout=dropout),
    )
    model = Jasper(ModelConfig(preset=None, blocks=blocks, batch_norm_padding="exclude"), num_mels=8, num_labels=29)
    set_convolution_method(model, "channels_last")
    model.to(device)
    return TrainStep(
        model,
        build_optimizer(model, OptimizerConfig(lr=0.01)),
        WeightAverage(model, decay=0.9),
        world=World(device=torch.device(device)),
        config=TrainingConfig(**config),
        blank=28,
        seed=0,
    )


class Replaying:
    """Stands in for CUDA graphs on a CPU: a recording computes nothing, a repetition computes all anew."""

    def __init__(self, step: TrainStep) -> None:
        self._step = step

    def __call__(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        flat = self._step._flat
        assert flat is not None
        sums = [tensor for norm in self._step._norms for tensor in (norm.mean_sum, norm.var_sum)]
        kept = [tensor.clone() for tensor in (flat.flat, *sums)]
        results = run()
        for tensor, before in zip((flat.flat, *sums), kept, strict=True):
            tensor.copy_(before)
        for tensor in results:
            tensor.fill_(float("nan"))

        def repeat() -> None:
            for mine, new in zip(results, run(), strict=True):
                mine.copy_(new)

        return results, repeat


def capturing_step() -> TrainStep:
    step = small_step()
    step._captures, step._record = True, Replaying(step)
    step._begin_passes()
    return step


def run_steps(step: TrainStep, batches: list[list[Batch]]) -> list[Tensor]:
    """Losses and gradients' norms by step, then the weights, their average and running statistics."""
    figures = []
    for number, of_step in enumerate(batches):
        result = step.run(
            of_step, list(range(len(of_step))), global_step=number, num_utterances=sum(len(b.indices) for b in of_step),
            lr=0.01,
        )  # fmt: skip
        assert result.sample is not None and result.sample[1].isfinite().all()
        figures.append(torch.tensor([result.loss, result.grad_norm]))
    assert step._average is not None
    return [*figures, *step._model.state_dict().values(), *step._average.weights.values()]


MIXED = [
    [packed_batch(0, utterances=5), padded_batch(1)],
    [packed_batch(2, utterances=6), padded_batch(3, labels=2), padded_batch(4)],
    [padded_batch(5), packed_batch(6, utterances=4)],
]


def test_steps_by_recorded_passes_are_the_plain_steps() -> None:
    captured = capturing_step()
    ours, theirs = run_steps(captured, MIXED), run_steps(small_step(), MIXED)
    assert captured.num_graphs == 2
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_micro_batches_that_differ_by_a_few_utterances_or_labels_share_a_shape() -> None:
    one, other = packed_batch(0, utterances=4), packed_batch(1, utterances=6)
    assert Shape.of(one) == Shape.of(other) and Shape.of(one).utterances == 16
    assert Shape.of(padded_batch(0, labels=5)) == Shape.of(padded_batch(0, labels=64))
    assert Shape.of(padded_batch(0, labels=65)) != Shape.of(padded_batch(0, labels=64))
    # At 1,024 labels our CTC would hand over to torch's, which cannot be recorded.
    assert Shape.of(padded_batch(0, labels=1000)).labels == MAX_LABELS
    # Padding has an influence on NVIDIA's batch norm: it is never added to.
    assert Shape.of(padded_batch(0, frames=64)) != Shape.of(padded_batch(0, frames=66))


def losses_of(batch: Batch, weight: Tensor) -> tuple[Tensor, Tensor]:
    return batch.features.sum((1, 2)), batch.features.transpose(1, 2)


def test_what_cannot_be_recorded_is_run_as_it_is_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(run: Callable[[], Any]) -> Any:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    passes = CapturedPasses(losses_of, before_replay=lambda: None, around=lambda: None, record=refuse)
    for number in range(4):
        batch = padded_batch(number, frames=64 + 2 * (number // 2))
        losses, log_probs = passes(batch, 1.0, CPU)
        torch.testing.assert_close(losses, batch.features.sum((1, 2)))
        torch.testing.assert_close(log_probs, batch.features[:1].transpose(1, 2))
    assert passes.num_graphs == 0
    (message,) = caplog.messages
    assert "goes on without CUDA graphs" in message and "operation not permitted" in message and "more" not in message


def test_a_transcript_that_is_too_long_for_our_ctc_is_run_as_it_is_and_keeps_no_other_from_a_graph() -> None:
    def record(run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        return run(), lambda: None

    passes = CapturedPasses(losses_of, before_replay=lambda: None, around=lambda: None, record=record)
    for labels, graphs in ((MAX_LABELS + 1, 0), (5, 1)):
        for _ in range(3):
            losses, _ = passes(batch := padded_batch(0, labels=labels), 1.0, CPU)
            torch.testing.assert_close(losses, batch.features.sum((1, 2)))
        assert passes.num_graphs == graphs


def test_there_are_never_more_graphs_than_the_limit() -> None:
    def record(run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        return run(), lambda: None

    passes = CapturedPasses(losses_of, before_replay=lambda: None, around=lambda: None, record=record)
    for frames in range(2, 2 * MAX_GRAPHS + 12, 2):
        for _ in range(2):
            passes(padded_batch(0, frames=frames), 1.0, CPU)
    assert passes.num_graphs == MAX_GRAPHS


def test_gradients_of_several_losses_add_up_wherever_they_lie_in_memory() -> None:
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(3, 5), "unused": torch.nn.Linear(2, 2)})
    flat = FlatGradients(model.parameters())
    flat.zero()
    inputs = torch.randn(2, 4, 3)
    for x in inputs:  # the gradient of a transposed weight lies in memory transposed
        flat.add_gradients_of((x @ model["used"].weight.T.contiguous() + model["used"].bias).square().sum())
    ours = [parameter.grad.clone() for parameter in model["used"].parameters()]
    assert all(float(parameter.grad.abs().sum()) == 0 for parameter in model["unused"].parameters())
    model.zero_grad(set_to_none=True)
    sum(model["used"](x).square().sum() for x in inputs).backward()
    for got, parameter in zip(ours, model["used"].parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad)


def test_gradients_lie_side_by_side_and_what_does_not_learn_has_none() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    model[0].requires_grad_(False)
    flat = FlatGradients(model.parameters())
    assert flat.flat.numel() == 2 * ALIGNMENT
    model(torch.ones(1, 3)).sum().backward()
    plain = [parameter.grad for parameter in model[1].parameters() if parameter.grad is not None]
    flat.zero()
    assert all(parameter.grad is None for parameter in model[0].parameters())
    model(torch.ones(1, 3)).sum().backward()
    got = [parameter.grad for parameter in model[1].parameters() if parameter.grad is not None]
    for view, expected in zip(got, plain, strict=True):
        torch.testing.assert_close(view, expected)
        assert view.untyped_storage().data_ptr() == flat.flat.untyped_storage().data_ptr()


def _sum_as_rank(rank: int, folder: str, compression: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = nn.Linear(3, 1)
    flat = FlatGradients(model.parameters())
    flat.zero()
    (model(torch.tensor([[1.0, 2.0, 4.0]])).sum() * (rank + 1)).backward()
    flat.sum_over(World(rank, 2), GradientsConfig(compression=compression))
    torch.save([parameter.grad for parameter in model.parameters()], Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("compression", ["none", "bf16", "fp16"])
def test_two_workers_add_up_their_gradients(compression: str, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_sum_as_rank, (str(tmp_path), compression), nprocs=2)
    for rank in range(2):
        weight, bias = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(weight, torch.tensor([[3.0, 6.0, 12.0]]))
        torch.testing.assert_close(bias, torch.tensor([3.0]))


@pytest.fixture
def gpu() -> Iterator[str]:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    pytest.importorskip("triton", reason="triton is not installed")
    yield "cuda"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_steps_by_cuda_graphs_are_the_plain_steps_with_dropout_too(gpu: str, precision: str) -> None:
    steps = [small_step(dropout=0.2, device=gpu, precision=precision, cuda_graphs=on) for on in (None, False)]
    ours, theirs = (run_steps(step, [*MIXED, *MIXED]) for step in steps)
    assert [step.num_graphs for step in steps] == [2, 0]
    tolerance = 1e-3 if precision == "fp32" else 5e-2
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
def test_no_host_waits_for_a_step_by_cuda_graphs(gpu: str) -> None:
    step = small_step(dropout=0.2, device=gpu, precision="bf16")
    on_device = [batch.to(gpu) for batch in MIXED[0]]
    given = [
        replace(batch, feature_lengths=host.feature_lengths, label_lengths=host.label_lengths)
        for batch, host in zip(on_device, MIXED[0], strict=True)
    ]
    for number in range(4):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if number == 3 else "default")
        try:
            step.start(given, [0, 1], global_step=number, num_utterances=8, lr=0.01)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert step.num_graphs == 2
