"""Names of picture datasets."""


class VisionDataset:
    """Never used."""


class CIFAR10(VisionDataset):
    """Never used."""
