"""Where Triton is installed and no CUDA device is, its interpreter runs the device's kernels on the CPU.

Triton looks at the variable when it is imported, so it is set before any test is.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

if find_spec("triton") is not None and not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
