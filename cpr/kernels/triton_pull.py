"""λ_{t+1} and its pull for all matrices of a pack in one launch, before the pass of triton_kernels.py.

The rules are those of cpr/bounds.py, in float32 as there. Its operations would take 60 launches of a
few numbers each.
"""

import triton
import triton.language as tl

BLOCK = 128


@triton.jit
def pull_kernel(
    count, step, lr, sums, elements, lam, kappa, kappa_set, sample, growth, smoothed, was_active, pull,
    mu, excess, warm_start, interval, deciding, ema_weight, KIND: tl.constexpr, METHOD: tl.constexpr, EMA: tl.constexpr,
    LATCHED: tl.constexpr, TRANSITION: tl.constexpr, SAFEGUARD: tl.constexpr, BY_LR: tl.constexpr, LR_ON_DEVICE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Set pull [4, count], and the state after it.

    step holds the updates that each theta has received. lr is a number, or the address of one. KIND
    is the measure's code (cpr/measures.py), METHOD the place in cpr.bounds.METHODS. State that the
    settings do not need is not touched.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    t = tl.load(step + at, mask=inside, other=0.0)
    n = tl.load(elements + at, mask=inside, other=2.0)
    first = tl.load(sums + 2 * at, mask=inside, other=0.0)
    second = tl.load(sums + 2 * at + 1, mask=inside, other=0.0)
    if KIND == 4:
        deviations = first - second * second / n
        value = tl.sqrt(tl.where(deviations < 0, 0.0, deviations) / (n - 1)).to(tl.float32)
    else:
        value = (first / n).to(tl.float32)  # R(theta_t)
    bound = tl.load(kappa + at, mask=inside, other=1.0)
    active = tl.load(kappa_set + at, mask=inside, other=0).to(tl.int1)
    finite = tl.abs(value) < float("inf")  # false for NaN: such a matrix leaves its state alone

    # The bound may be set by R(theta_t) (section 4.3).
    if METHOD >= 2:
        if METHOD == 2:
            sets = (t >= warm_start) & (value > 0) & finite
        else:
            measured = value
            if EMA:
                average = tl.load(smoothed + at, mask=inside, other=0.0)
                measured = tl.where(finite, average + ema_weight * (value - average), average)
                tl.store(smoothed + at, measured, mask=inside)
            sampled = (t > 0) & (t.to(tl.int32) % interval == 0) & finite
            before = tl.load(sample + at, mask=inside, other=0.0)
            grew_before = tl.load(growth + at, mask=inside, other=0.0)
            grew = measured - before
            sets = sampled & (t >= deciding) & (grew < grew_before) & (value > 0)
            tl.store(growth + at, tl.where(sampled, grew, grew_before), mask=inside)
            tl.store(sample + at, tl.where(sampled, measured, before), mask=inside)
        bound = tl.where(sets & (active == 0), value, bound)
        active = active | sets

    # lambda_{t+1} = max(0, lambda_t + mu (R(theta_t) - kappa)), within the safeguard's limits.
    scale = 1.0
    if BY_LR:
        scale = tl.load(lr).to(tl.float32) if LR_ON_DEVICE else lr
    old = tl.load(lam + at, mask=inside, other=0.0)
    new = old + mu * (value - bound)
    new = tl.where(new < 0, 0.0, new)
    shrink = tl.full([BLOCK], 1.0, tl.float32)
    if SAFEGUARD:
        if KIND == 1:
            most = tl.full([BLOCK], 0.25, tl.float32)
        elif KIND == 2:
            most = value / 2
        elif KIND == 3:
            most = tl.full([BLOCK], 0.5, tl.float32)
        else:
            most = (n - 1).to(tl.float32) * value / 2
        new = tl.where(scale * new > most, most / scale, new)
        saturated = active & finite & (value > excess * bound)
        new = tl.where(saturated, old, new)
        ratio = tl.div_rn(bound, tl.where(saturated, value, bound))
        if (KIND == 1) | (KIND == 3):
            ratio = tl.sqrt_rn(ratio)
        shrink = tl.where(saturated, ratio, 1.0)
    new = tl.where(active, tl.where(finite, new, old), 0.0)
    applied = scale * new
    if SAFEGUARD:
        applied = tl.where(saturated, 0.0, applied)

    # pull(x) = pull[0] x - pull[1] clamp(x - pull[2], -pull[3], pull[3])
    if KIND == 1:
        tl.store(pull + at, shrink - 2 * applied, mask=inside)
    else:
        rate = applied
        center = tl.zeros([BLOCK], tl.float32)
        limit = tl.full([BLOCK], 1.0, tl.float32)
        if KIND == 2:
            rate = limit
            limit = applied
        if KIND == 4:
            rate = tl.where(value > 0, applied.to(tl.float64) / ((n - 1) * tl.where(value > 0, value, 1.0)), 0.0).to(
                tl.float32
            )
            center = (second / n).to(tl.float32)
            limit = tl.full([BLOCK], float("inf"), tl.float32)
        tl.store(pull + at, shrink, mask=inside)
        tl.store(pull + count + at, rate, mask=inside)
        tl.store(pull + 2 * count + at, center, mask=inside)
        tl.store(pull + 3 * count + at, limit, mask=inside)

    # AdaCPR (Algorithm 3).
    if TRANSITION:
        bound = tl.where((new == 0) & (value > 0) & finite & (old > 0), value, bound)
    if LATCHED:
        was = tl.load(was_active + at, mask=inside, other=0).to(tl.int1) | (new > 0)
        bound = tl.where((new == 0) & (value > 0) & finite & was, tl.minimum(bound, value), bound)
        tl.store(was_active + at, was, mask=inside)
    tl.store(lam + at, new, mask=inside)
    tl.store(kappa + at, bound, mask=inside)
    tl.store(kappa_set + at, active, mask=inside)
