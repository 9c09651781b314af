"""Not torchvision: what mosaicml-streaming needs to be imported (see pyproject.toml)."""
