import torch
from relatives import RELATIVES, randomised

from jasper_ray.inference.folded import fold
from jasper_ray.model.jasper import Jasper


def test_every_convolution_keeps_its_shape_and_residual_branches_become_one(relative: Jasper) -> None:
    folded = fold(relative)
    encoder = relative.encoder
    assert len(folded.blocks) == len(encoder.blocks)
    for block, config, layer in zip(folded.blocks, encoder.blocks, encoder.layers, strict=True):
        assert (block.filters, block.stride) == (config.filters, config.stride)
        assert len(block.convs) == config.repeat * (2 if config.separable else 1)
        panes = list(layer.res)  # type: ignore[union-attr, arg-type]
        assert (block.residual is None) == (not panes)
        if block.residual is not None:
            assert block.residual.shape == (config.filters, sum(pane[0].in_channels for pane in panes))


def test_folding_leaves_the_model_as_it_was() -> None:
    model = randomised(RELATIVES["dense"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fold(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_one_sub_block_folded_is_convolution_and_batch_norm_in_float64() -> None:
    model = randomised(RELATIVES["no residual"])
    layers = model.encoder.layers[1].sub_blocks  # type: ignore[union-attr]
    conv, norm = layers[0].double(), layers[1].double()
    x = torch.randn(2, 64, 40, dtype=torch.float64)
    expected = norm(conv(x))
    folded = fold(model).blocks[1].convs[0]
    got = torch.nn.functional.conv1d(x, folded.weight.double(), folded.bias.double(), padding=folded.reach)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_a_model_is_split_behind_its_last_stride() -> None:
    first, rest = fold(randomised(RELATIVES["two strides"])).split_after_strides()
    assert (len(first.blocks), len(rest.blocks)) == (3, 1)
    first, rest = fold(randomised(RELATIVES["no stride"])).split_after_strides()
    assert (len(first.blocks), len(rest.blocks)) == (0, 1)
