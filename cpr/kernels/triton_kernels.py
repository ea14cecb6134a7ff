"""The single pass over memory of cpu.cpp for GPUs, in Triton, for whole packs of matrices in one launch.

The arithmetic is the same as in cpu.cpp:

    theta_{t+1} = pull(theta_t) + Opt(g_t)       pull(x) = scale x - rate clamp(x - center, -limit, limit)

A program works on one chunk of one matrix, found in tables on the device. The order of summation
fixes the result to the last bit. Lanes of BLOCK elements are added over a chunk, and then as a tree,
in float32. The chunks of a matrix are added in float64 (`reduce_kernel`). There are no atomics.
"""

import triton
import triton.language as tl

BLOCK = 1024
CHUNK = 16 * BLOCK


@triton.jit
def _pointer(addresses, row, count, tensor, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    pointer = tl.load(addresses + row * count + tensor).to(tl.pointer_type(DTYPE))
    if ALIGNED:  # lets the compiler load 16 bytes at a time
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def _first_term(x, KIND: tl.constexpr):
    if KIND == 2:
        term = tl.abs(x)
    elif KIND == 3:  # x^2 / 2 inside the unit interval, |x| - 1/2 outside
        inner = tl.minimum(tl.abs(x), 1.0)
        term = inner * inner * 0.5 + (tl.abs(x) - inner)
    else:
        term = x * x
    return term


@triton.jit
def sums_kernel(
    addresses, count, tensor_of, first, numel, parts, KIND: tl.constexpr, DTYPE: tl.constexpr, ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Set parts[chunk] to the sums of R over the chunk's elements.

    KIND is the measure's code (cpr/measures.py).
    """
    chunk = tl.program_id(0)
    tensor = tl.load(tensor_of + chunk)
    start = (chunk - tl.load(first + tensor)) * CHUNK
    end = tl.load(numel + tensor)
    p = _pointer(addresses, 0, count, tensor, DTYPE, ALIGNED)
    total = tl.zeros([BLOCK], tl.float32)
    values = tl.zeros([BLOCK], tl.float32)
    for offset in range(0, tl.minimum(end - start, CHUNK), BLOCK):
        at = start + offset + tl.arange(0, BLOCK)
        x = tl.load(p + at, mask=at < end, other=0.0).to(tl.float32)
        total += _first_term(x, KIND)
        values += x
    tl.store(parts + 2 * chunk, tl.sum(total).to(tl.float64))
    tl.store(parts + 2 * chunk + 1, tl.sum(values).to(tl.float64) if KIND == 4 else 0.0)


@triton.jit
def step_kernel(
    addresses, count, tensor_of, first, numel, step, lr, pull, parts, one_minus_beta1, log_beta1, beta2, one_minus_beta2, log_beta2,
    eps, sign, KIND: tl.constexpr, PULL: tl.constexpr, AMSGRAD: tl.constexpr, LR_ON_DEVICE: tl.constexpr, DTYPE: tl.constexpr,
    ALIGNED: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Do one chunk's step, and set parts[chunk] to the sums of the new parameters.

    step [count] holds each tensor's updates before this one. lr is a number, or the address of one.
    pull [4, count] is read if PULL isn't 0: 1 is a mere scale, 2 takes all four numbers. KIND 0 takes
    no sums. sign is -1 to maximize.
    """
    chunk = tl.program_id(0)
    tensor = tl.load(tensor_of + chunk)
    start = (chunk - tl.load(first + tensor)) * CHUNK
    end = tl.load(numel + tensor)
    p = _pointer(addresses, 0, count, tensor, DTYPE, ALIGNED)
    g = _pointer(addresses, 1, count, tensor, DTYPE, ALIGNED)
    m = _pointer(addresses, 2, count, tensor, DTYPE, ALIGNED)
    v = _pointer(addresses, 3, count, tensor, DTYPE, ALIGNED)
    if LR_ON_DEVICE:
        lr = tl.load(lr).to(tl.float32)
    t = tl.load(step + tensor).to(tl.float64) + 1
    step_size = (lr / (1 - tl.exp(t * log_beta1))).to(tl.float32)
    inverse_sqrt_correction2 = (1 / tl.sqrt(1 - tl.exp(t * log_beta2))).to(tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    values = tl.zeros([BLOCK], tl.float32)
    for offset in range(0, tl.minimum(end - start, CHUNK), BLOCK):
        at = start + offset + tl.arange(0, BLOCK)
        inside = at < end
        gradient = tl.load(g + at, mask=inside, other=0.0).to(tl.float32) * sign
        moment = tl.load(m + at, mask=inside, other=0.0).to(tl.float32)
        moment = moment + (gradient - moment) * one_minus_beta1
        second = tl.load(v + at, mask=inside, other=0.0).to(tl.float32) * beta2 + gradient * gradient * one_minus_beta2
        tl.store(m + at, moment.to(DTYPE), mask=inside)
        tl.store(v + at, second.to(DTYPE), mask=inside)
        if AMSGRAD:
            largest = _pointer(addresses, 4, count, tensor, DTYPE, ALIGNED)
            second = tl.maximum(tl.load(largest + at, mask=inside, other=0.0).to(tl.float32), second)
            tl.store(largest + at, second.to(DTYPE), mask=inside)
        x = tl.load(p + at, mask=inside, other=0.0).to(tl.float32)
        pulled = x
        if PULL >= 1:
            pulled = x * tl.load(pull + tensor)
        if PULL == 2:
            limit = tl.load(pull + 3 * count + tensor)
            deviation = x - tl.load(pull + 2 * count + tensor)
            pulled = pulled - tl.load(pull + count + tensor) * tl.minimum(tl.maximum(deviation, -limit), limit)
        update = tl.div_rn(step_size * moment, tl.sqrt_rn(second) * inverse_sqrt_correction2 + eps)
        written = (pulled - update).to(DTYPE)
        tl.store(p + at, written, mask=inside)
        if KIND > 0:
            x = tl.where(inside, written.to(tl.float32), 0.0)  # as the memory holds it
            total += _first_term(x, KIND)
            values += x
    if KIND > 0:
        tl.store(parts + 2 * chunk, tl.sum(total).to(tl.float64))
        tl.store(parts + 2 * chunk + 1, tl.sum(values).to(tl.float64) if KIND == 4 else 0.0)


@triton.jit
def reduce_kernel(parts, first, step, out, COUNTS: tl.constexpr, BLOCK: tl.constexpr):
    """Set out[matrix] to the sum of the matrix's parts, both [., 2] float64.

    With COUNTS, also add one to step[matrix].
    """
    matrix = tl.program_id(0)
    begin = tl.load(first + matrix)
    end = tl.load(first + matrix + 1)
    total = tl.zeros([BLOCK], tl.float64)
    values = tl.zeros([BLOCK], tl.float64)
    for block in range(begin, end, BLOCK):
        at = block + tl.arange(0, BLOCK)
        total += tl.load(parts + 2 * at, mask=at < end, other=0.0)
        values += tl.load(parts + 2 * at + 1, mask=at < end, other=0.0)
    tl.store(out + 2 * matrix, tl.sum(total))
    tl.store(out + 2 * matrix + 1, tl.sum(values))
    if COUNTS:
        tl.store(step + matrix, tl.load(step + matrix) + 1)
