"""Go through a tensor piece by piece, so that no temporary of a sum or a pull has the parameter's size."""

from collections.abc import Iterator

from torch import Tensor

PIECE = 2**16  # elements: a piece of float64 is 0.5 MB and stays in a processor's cache
PIECE_ON_DEVICES = 2**20  # larger, because every operation on a piece costs a launch


def in_one_piece(tensor: Tensor) -> bool:
    """Return whether the elements lie in memory without gaps, in any order of dimensions."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def laid_out_alike(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of one shape have their elements at the same places.

    The stride of a dimension of size 1 doesn't matter.
    """
    if one.stride() == other.stride():
        return True
    strides = zip(one.shape, one.stride(), other.stride(), strict=True)
    return all(size == 1 or a == b for size, a, b in strides)


def pieces(tensor: Tensor) -> Iterator[Tensor]:
    """Yield views of the tensor that together hold every element once.

    A view has at most PIECE elements on a CPU and at most PIECE_ON_DEVICES elsewhere. The boundaries
    follow from the tensor's shape and layout alone, never from the number of threads.
    """
    size = PIECE if tensor.device.type == "cpu" else PIECE_ON_DEVICES
    if tensor.numel() <= size:
        yield tensor
    elif in_one_piece(tensor):
        yield from tensor.as_strided((tensor.numel(),), (1,)).split(size)
    elif len(tensor) == 1:
        yield from pieces(tensor[0])
    else:
        for part in tensor.chunk(-(-tensor.numel() // size)):
            yield from pieces(part)
