"""Adam's step with the pull, for matrices that step together.

It takes one pass over memory if a compiled kernel is available.

| path | parameters | passes over memory |
| --- | --- | --- |
| cpu | float32 and bfloat16 on the CPU, without gaps in memory | one: the sums of R(θ_{t+1}) are taken while θ_{t+1} is written |
| triton | float32 and bfloat16 on a GPU, without gaps in memory | one, and two small kernels: the pull before it, the sums after it |
| eager | everything else: torch's own operations | three: norm, pull, torch's Adam |

With evaluate_at="after" R(θ_t + Opt(g_t)) is known only when all of the matrix has been written, so
the pull is a second pass. The CPU kernel makes it while the matrix is in the processor's cache.
"""

from cpr.kernels.select import EAGER, Kernel, select

__all__ = ["EAGER", "Kernel", "select"]
