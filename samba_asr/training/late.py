"""Numbers that are read after their step: the CPU goes on launching work while the device still computes them."""

from __future__ import annotations

import torch
from torch import Tensor


class Late:
    """Numbers on their way from a device.  `read` waits until they are there: for the work before the copy, not after it."""

    def __init__(self, numbers: Tensor):
        self._numbers, self._copied = numbers.detach().to("cpu", non_blocking=True), None  # pinned, if it is a copy
        if numbers.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> list[float]:
        if self._copied is not None:
            self._copied.synchronize()
        return self._numbers.tolist()
