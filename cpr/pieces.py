"""A tensor piece by piece, so that what is made on the way to a sum or a pull is never of the parameter's size."""

from collections.abc import Iterator

from torch import Tensor

PIECE = 2**16  # elements: a piece of float64 is 0.5 MB and stays in a processor's cache
PIECE_ON_DEVICES = 2**20  # where every operation on a piece costs a launch


def in_one_piece(tensor: Tensor) -> bool:
    """Return whether the elements lie in memory one after the other without gaps, in whatever order of dimensions."""
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
    """Return whether two tensors of one shape have their elements at the same places; the stride of a dimension of 1 says nothing."""
    if one.stride() == other.stride():
        return True
    strides = zip(one.shape, one.stride(), other.stride(), strict=True)
    return all(size == 1 or a == b for size, a, b in strides)


def pieces(tensor: Tensor) -> Iterator[Tensor]:
    """Views of the tensor that hold every element once, at most PIECE in each (PIECE_ON_DEVICES elsewhere than on a CPU).

    Where they begin and end follows from the tensor's shape and layout alone, never from the number of threads.
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
