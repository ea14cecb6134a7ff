"""Adam's step with the pull, for a pack of parameters: one pass over memory where a compiled kernel can be had.

| path | parameters | passes over memory |
| --- | --- | --- |
| cpu | float32 and bfloat16 on the CPU, contiguous | one: the sums of R(θ_{t+1}) are taken while θ_{t+1} is written |
| triton | float32 and bfloat16 on a GPU, contiguous | one, and two small kernels: the pull before it, the sums after it |
| eager | everything else: torch's own operations | three: norm, pull, torch's fused Adam |

With evaluate_at="after" R(θ_t + Opt(g_t)) is known only when all of the matrix has been written: the pull is a second pass.
"""

from cpr.kernels.select import CHOICES, Kernel, select

__all__ = ["CHOICES", "Kernel", "select"]
