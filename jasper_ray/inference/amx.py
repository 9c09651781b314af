"""A layer in the frequency domain by a processor's matrix unit (AMX): `amx.c`, compiled where it first runs.

It does what `jasper_ray.inference.channels_first_layers` does by torch, in three passes whose results lie as the next
one reads them. Where there is no AMX, no C compiler or another system than Linux, torch's way is taken.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("amx.c")
FLAGS = ("-O3", "-shared", "-fPIC", "-fopenmp", "-mamx-tile", "-mamx-bf16", "-mavx512f", "-mavx512bw", "-mavx512vl",
         "-mavx512bf16")  # fmt: skip
HOP, BLOCK = 24, 32
"""As there."""


class Sizes(ctypes.Structure):
    """Of a layer, as there."""

    _fields_ = (
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("tiles", ctypes.c_int64),
        ("tile", ctypes.c_int64),
        ("rows", ctypes.c_int64),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled passes; none where they cannot run, which is told if only a compiler is missing."""
    if platform.system() != "Linux" or not torch.cpu._is_amx_tile_supported() or _is_masked():
        return None
    try:
        loaded = ctypes.CDLL(str(_compiled()))
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or ""
        log.warning(
            "this CPU has AMX, but our kernels for it cannot be compiled, torch's slower ones are taken (they need gcc "
            "11 or newer, apt-get install gcc): %s %s", error, output.strip()[-300:],
        )  # fmt: skip
        return None
    if loaded.jasper_amx_allow() != 0:
        log.warning("this CPU has AMX, but the system does not let this process use it: torch's kernels are taken")
        return None
    pointer, real, integer = ctypes.c_void_p, ctypes.c_float, ctypes.c_int
    for size_of in (loaded.jasper_amx_spectra, loaded.jasper_amx_products):
        size_of.argtypes, size_of.restype = [pointer], ctypes.c_int64
    layer = loaded.jasper_amx_layer
    layer.argtypes, layer.restype = [*[pointer] * 7, real, real, integer, integer, *[pointer] * 3], None
    return loaded


def _is_masked() -> bool:
    """Whether torch's own kernels are told to do without AMX: so do ours."""
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    return most not in ("ALL", "DEFAULT") and "AMX" not in most and not most.startswith("AVX10")


def _compiled() -> Path:
    """The library in the user's cache, compiled if it is not there.

    Raises:
        OSError: No compiler, or no place to write to.
        subprocess.CalledProcessError: The compiler refused.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or [shutil.which("gcc") or "cc"]
    source = SOURCE.read_bytes()
    name = hashlib.sha256(source + " ".join((*compiler, *FLAGS)).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jasper_ray"
    made = folder / f"amx-{name}.so"
    if not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as beside:
            fresh = Path(beside) / made.name
            command = [*compiler, *FLAGS, str(SOURCE), "-o", str(fresh)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
            fresh.replace(made)  # at once: another process may look for it
    return made


def suits(*, inputs: int, outputs: int, tile: int, dtype: torch.dtype) -> bool:
    """Whether a layer has sizes that the passes take, and they run here."""
    fits = inputs % BLOCK == 0 and outputs % BLOCK == 0 and 32 < tile <= 64 and tile % 2 == 0
    return fits and dtype == torch.bfloat16 and library() is not None


class AmxLayer:
    """A convolution as spectra.

    Args:
        into: `(rows, tile)` a tile's frames to its spectrum.
        factors: `(rows, C', C)` in bf16.
        back: `(HOP, rows)` products to a tile's output frames.
        bias: `(C')`.
    """

    def __init__(self, into: Tensor, factors: Tensor, back: Tensor, bias: Tensor) -> None:
        (rows, self._tile), (_, outputs, inputs) = into.shape, factors.shape
        self._rows, self._outputs, self._inputs = rows, outputs, inputs
        padded = functional.pad(into, (0, 64 - self._tile, 0, -rows % 16))
        self._into = padded.view(-1, 16, 2, 32).transpose(1, 2).to(torch.bfloat16).contiguous()
        self._back = (
            functional.pad(back, (0, -rows % 32)).view(HOP, -1, 32).transpose(0, 1).to(torch.bfloat16).contiguous()
        )
        pairs = functional.pad(factors, (0, 0, 0, 0, 0, rows % 2)).view(
            -1, 2, outputs // BLOCK, 2, 16, inputs // 32, 32
        )
        self._factors = pairs.permute(0, 2, 1, 5, 3, 4, 6).contiguous()
        self._bias = bias.float().contiguous()
        loaded = library()
        assert loaded is not None
        self._library = loaded

    def room(self, num_tiles: int) -> tuple[int, int]:
        """Numbers in bf16 that `spectra` and `products` need for so many tiles in a channel."""
        sizes = ctypes.byref(self._sizes(num_tiles))
        return self._library.jasper_amx_spectra(sizes), self._library.jasper_amx_products(sizes)

    def __call__(
        self,
        x: Tensor,
        out: Tensor,
        keep: Tensor,
        *,
        spectra: Tensor,
        products: Tensor,
        bounds: tuple[float, float],
        adds: bool,
    ) -> None:
        """All in bf16 on the CPU.

        Args:
            x: `(C, HOP * tiles)`, contiguous, with half a kernel of readable memory before and behind; tiles are a
                multiple of 16.
            out: `(C', HOP * tiles)`, contiguous; filled, or added to.
            keep: `(HOP * tiles)` int16: -1 where frames are kept, 0 where they become zero.
            spectra: Room, see `room`.
            products: The same.
            bounds: Of the non-linearity.
            adds: Whether to what is in `out`.
        """
        num_tiles = x.shape[1] // HOP
        assert x.is_contiguous() and out.is_contiguous() and keep.dtype == torch.int16 and num_tiles % 16 == 0
        given = (x, self._into, self._factors, self._back, self._bias, keep)
        self._library.jasper_amx_layer(
            ctypes.byref(self._sizes(num_tiles)), *(tensor.data_ptr() for tensor in given), *bounds, int(adds),
            torch.get_num_threads(), spectra.data_ptr(), products.data_ptr(), out.data_ptr(),
        )  # fmt: skip

    def _sizes(self, num_tiles: int) -> Sizes:
        return Sizes(self._inputs, self._outputs, num_tiles, self._tile, self._rows)
