"""The tones of tests/training/tones.py on an object store, and the run over them."""

from pathlib import Path

from tones import CONFIG_FILE, prepare_tones

from jasper_ray.storage import object_store

OVERRIDES = ("training.evaluate_every_epochs=1000", "checkpoint.every_epochs=1000")
__all__ = ["CONFIG_FILE", "put_tones", "tones_overrides"]


def put_tones(folder: Path, uri: str, *, train: int) -> None:
    """Datasets `train` and `evaluation` below `uri`, made in a local folder first."""
    prepare_tones(folder, train=train)
    for name in ("train", "evaluation"):
        object_store.upload_folder(folder / name, f"{uri}/{name}", last="manifest.parquet")


def tones_overrides(data: str, output: str, *more: str) -> list[str]:
    """Settings of a run over datasets below `data` into `output`."""
    return [
        *(f"data.{name}=[{{path: '{data}/{name}'}}]" for name in ("train", "evaluation")),
        f"output={output}",
        *OVERRIDES,
        *more,
    ]
