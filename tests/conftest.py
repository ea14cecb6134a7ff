"""Without a GPU, run Triton's kernels in its interpreter. It must be chosen before they are imported."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
