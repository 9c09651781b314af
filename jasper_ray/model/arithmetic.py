"""How much arithmetic a model is."""

from jasper_ray.config.model import ModelConfig
from jasper_ray.model.jasper import branch_inputs


def forward_flops(model: ModelConfig, *, num_mels: int, num_labels: int, seconds: float, hop_s: float = 0.01) -> float:
    """Multiplications and additions of an utterance's forward pass by direct convolution, from the list of blocks.

    Batch norm, activations and masks are left out, and so is what another algorithm than the direct sum saves.
    """
    frames, flops, history = seconds / hop_s, 0.0, [num_mels]
    for block in model.resolved_blocks:
        inputs, branches = history[-1], sum(branch_inputs(block, history))
        for _ in range(block.repeat):
            frames /= block.stride
            taps = inputs * block.kernel * block.filters
            if block.separable:
                taps = inputs * block.kernel + inputs * block.filters
            flops += 2 * frames * taps
            inputs = block.filters
        flops += 2 * frames * branches * block.filters
        history = [*history, block.filters] if block.residual == "dense" else [block.filters]
    return flops + 2 * frames * history[-1] * num_labels


def step_flops(model: ModelConfig, *, num_mels: int, num_labels: int, seconds: float) -> float:
    """Of an utterance in training: forward, gradient of the inputs, gradient of the weights."""
    return 3 * forward_flops(model, num_mels=num_mels, num_labels=num_labels, seconds=seconds)
