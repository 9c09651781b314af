import torch
from relatives import NUM_MELS

from jasper_ray.inference.exportable import ExportableJasper
from jasper_ray.inference.folded import fold
from jasper_ray.model.jasper import Jasper


@torch.inference_mode()
def test_plain_operators_give_the_log_probs_of_the_model(relative: Jasper) -> None:
    exportable = ExportableJasper(fold(relative))
    features, lengths = torch.randn(3, NUM_MELS, 97), torch.tensor([97, 60, 1])
    got, valid = exportable(features, lengths)
    for row, (length, end) in enumerate(zip(lengths.tolist(), valid.tolist(), strict=True)):
        expected, (plain_end,) = relative(features[row : row + 1, :, :length], lengths[row : row + 1])
        assert end == int(plain_end)
        torch.testing.assert_close(got[row, :end], expected[0], atol=1e-4, rtol=0)
