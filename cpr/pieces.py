"""A tensor piece by piece, so that what is made on the way to a sum or a pull is never of the parameter's size."""

from collections.abc import Iterator

import torch
from torch import Tensor

PIECE = 2**16  # elements: a piece of float64 is 0.5 MB and stays in a processor's cache
PIECE_ON_DEVICES = 2**20  # where every operation on a piece costs a launch


def in_one_piece(tensor: Tensor) -> bool:
    """Whether the elements lie in memory one after the other, in whatever order of dimensions that torch has a name for."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    return tensor.is_contiguous() or (tensor.ndim in layouts and tensor.is_contiguous(memory_format=layouts[tensor.ndim]))


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
