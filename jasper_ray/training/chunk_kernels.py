"""What kernels over lists of tensors share, in Triton; `chunks.py` makes their tables.

A launch takes all tensors. Row t of the table `pointers` has COLUMNS addresses, of what belongs to tensor t.
A program works on one chunk of one tensor: `owners` says whose chunk it is, `first` (one longer than there are tensors)
which program has a tensor's first.
"""

import triton
import triton.language as tl


@triton.jit
def pointer_of(pointers, tensor, COLUMN: tl.constexpr, COLUMNS: tl.constexpr):
    """The first number of one of a tensor's arrays."""
    return tl.load(pointers + COLUMNS * tensor + COLUMN).to(tl.pointer_type(tl.float32))


@triton.jit
def chunk_of(owners, first, sizes, CHUNK: tl.constexpr):
    """A program's tensor, where in it the chunk starts, and how many numbers the chunk has."""
    program = tl.program_id(0)
    tensor = tl.load(owners + program)
    start = (program - tl.load(first + tensor)).to(tl.int64) * CHUNK
    return tensor, start, tl.minimum(tl.load(sizes + tensor) - start, CHUNK).to(tl.int32)


@triton.jit
def is_aligned(pointer):
    """Whether four numbers at a time can be read and written there."""
    return (pointer.to(tl.int64) & 15) == 0
