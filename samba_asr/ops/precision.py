"""The dtype in which scans accumulate, for any input dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def accumulation_dtype(*tensors: Tensor | None) -> torch.dtype:
    """Return the dtype of states and sums: float64 if any input is float64, else float32."""
    return torch.float64 if any(v is not None and v.dtype == torch.float64 for v in tensors) else torch.float32
