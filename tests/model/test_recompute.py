import pytest
import torch
from torch import Tensor

from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.model.convolution import METHODS, Method, set_convolution_method
from jasper_ray.model.jasper import Jasper
from jasper_ray.training.batch_norm import batch_norms

BLOCKS = (
    BlockConfig(filters=16, kernel=11, stride=2, dropout=0.2),
    BlockConfig(filters=16, kernel=11, repeat=2, dropout=0.2, residual="dense"),
    BlockConfig(filters=24, kernel=13, repeat=2, dropout=0.2, residual="dense"),
)


def one_pass(method: Method, *, recomputes: bool, padding: str = "include", bf16: bool = False) -> list[Tensor]:
    """Log-probs, gradients and the sums of batch norm after two micro-batches."""
    torch.manual_seed(0)
    config = ModelConfig(preset=None, blocks=BLOCKS, batch_norm_padding=padding)
    model = Jasper(config, num_mels=16, num_labels=29)
    set_convolution_method(model, method)
    model.encoder.recomputes = recomputes
    for seed in (1, 2):
        torch.manual_seed(seed)
        features, lengths = torch.randn(2, 16, 96), torch.tensor([96, 61])
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            log_probs, _ = model(features, lengths)
        log_probs.square().mean().backward()
    sums = [tensor for norm in batch_norms(model) for tensor in (norm.mean_sum, norm.var_sum)]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(gradients) == len(list(model.parameters()))
    return [log_probs.detach(), *gradients, *sums]


@pytest.mark.parametrize("padding", ["include", "exclude"])
@pytest.mark.parametrize("method", METHODS)
def test_results_gradients_and_statistics_are_the_same_with_and_without(method: Method, padding: str) -> None:
    kept = one_pass(method, recomputes=False, padding=padding)
    again = one_pass(method, recomputes=True, padding=padding)
    assert all(torch.equal(first, second) for first, second in zip(kept, again, strict=True))


def test_the_repetition_is_in_half_precision_too() -> None:
    kept, again = (one_pass("frequency", recomputes=recomputes, bf16=True) for recomputes in (False, True))
    assert all(torch.equal(first, second) for first, second in zip(kept, again, strict=True))


def test_fewer_activations_are_kept() -> None:
    torch.manual_seed(0)
    model = Jasper(ModelConfig(preset=None, blocks=BLOCKS), num_mels=16, num_labels=29)
    counts = []
    for recomputes in (False, True):
        model.encoder.recomputes = recomputes
        kept: dict[int, int] = {}

        def pack(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            log_probs, _ = model(torch.randn(2, 16, 400), torch.tensor([400, 390]))
        counts.append(sum(kept.values()))
        del log_probs
    assert counts[1] < counts[0] / 3
