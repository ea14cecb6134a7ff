"""The Triton kernels compile to GPU code. A compiler may refuse what the interpreter accepts.

This needs no GPU.
"""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

pytest.importorskip("triton")

ADDRESSES, NUMBERS, DOUBLES, FLAGS = "*i64", "*fp32", "*fp64", "*i1"
TABLES = {"addresses": ADDRESSES, "count": "i32", "tensor_of": ADDRESSES, "first": ADDRESSES, "numel": ADDRESSES}
ADAM = dict.fromkeys(("one_minus_beta1", "log_beta1", "beta2", "one_minus_beta2", "log_beta2", "eps", "sign"), "fp32")
STATE = dict.fromkeys(("lam", "kappa", "sample", "growth", "smoothed"), NUMBERS) | {
    "kappa_set": FLAGS,
    "was_active": FLAGS,
}
BOUND = dict.fromkeys(("mu", "excess", "warm_start", "ema_weight"), "fp32") | {"interval": "i32", "deciding": "i32"}


def compile_all() -> int:
    """Compile every kernel for an H100 with every measure and most settings. Return the number of programs."""
    import triton.language as tl
    from triton import compile as compiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from cpr.kernels import triton_kernels, triton_pull

    made = 0

    def build(function, types, constants):
        nonlocal made
        signature = {name: types.get(name, "constexpr") for name in function.arg_names}
        places = {(function.arg_names.index(name),): value for name, value in constants.items()}
        assert compiled(ASTSource(function, signature, places), target=GPUTarget("cuda", 90, 32)).asm["cubin"]
        made += 1

    sizes = {"BLOCK": triton_kernels.BLOCK, "CHUNK": triton_kernels.CHUNK, "ALIGNED": True}
    for dtype in (tl.float32, tl.bfloat16):
        for kind in (1, 2, 3, 4):
            build(triton_kernels.sums_kernel, TABLES | {"parts": DOUBLES}, sizes | {"DTYPE": dtype, "KIND": kind})
        for (kind, pull), on_device in product(((0, 0), (1, 0), (1, 1), (2, 2), (3, 2), (4, 2)), (False, True)):
            types = (
                TABLES
                | ADAM
                | {"step": NUMBERS, "lr": NUMBERS if on_device else "fp32", "pull": NUMBERS, "parts": DOUBLES}
            )
            constants = {"DTYPE": dtype, "KIND": kind, "PULL": pull, "AMSGRAD": on_device, "LR_ON_DEVICE": on_device}
            build(triton_kernels.step_kernel, types, sizes | constants)
    for counts in (False, True):
        types = {"parts": DOUBLES, "first": ADDRESSES, "step": NUMBERS, "out": DOUBLES}
        build(triton_kernels.reduce_kernel, types, {"COUNTS": counts, "BLOCK": 128})
    for kind, method, on_device in product((1, 2, 3, 4), (0, 2, 3), (False, True)):
        types = (
            STATE | BOUND | {"count": "i32", "step": NUMBERS, "lr": NUMBERS if on_device else "fp32", "pull": NUMBERS}
        )
        constants = {
            "KIND": kind,
            "METHOD": method,
            "EMA": on_device,
            "LATCHED": on_device,
            "TRANSITION": not on_device,
        }
        constants |= {"SAFEGUARD": True, "BY_LR": True, "LR_ON_DEVICE": on_device, "BLOCK": triton_pull.BLOCK}
        build(triton_pull.pull_kernel, types | {"sums": DOUBLES, "elements": DOUBLES}, constants)
    return made


def test_every_kernel_compiles_for_a_gpu():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | {
        "PYTHONPATH": "."
    }
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, __file__], env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 8 + 24 + 2 + 24


if __name__ == "__main__":
    print(compile_all())
