"""Sums of gradients over ranks, in buckets that travel while the rest of the backward pass is computed.

The way of DistributedDataParallel (Li et al., "PyTorch Distributed", VLDB 2020): parameters are packed into buckets in reverse
order, in which their gradients become ready, and a bucket is sent as soon as it is full.  DDP itself would wait for ever where a
rank leaves out a batch that is not finite, cuts one that is out of memory in two, or has none left.  Here such a rank loses no
more than the overlap:

    - Only the last backward pass of a step sends (`last_pass`), with what the passes before it left in a `GradientSum`.  These
      accumulate, without communication.  If the loss of the last batch is not finite, the device leaves its gradient out.
    - Buckets are sent in one fixed order on every rank; `flush` sends all that are left, whatever happened.
    - What is sent is a copy.  If the last pass is out of memory and the step starts again, the buckets that are on their way
      already stay as they are: they hold the whole step's gradients of their parameters.
    - Each bucket also counts, for each parameter, the ranks that used it.  A parameter that no rank used keeps None.

The layout never changes, because the order of a sum over three ranks depends on it, and resumed runs repeat their steps bit for
bit.  A parameter that a rank does not use holds back the buckets after it on that rank until `flush`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from samba_asr.training.optim import GradientSum

BYTES = 25 << 20  # of a bucket, as in DDP


class Bucket:
    """Parameters whose gradients travel together; all are of one type."""

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self.parameters = list(parameters)
        self.used: list[bool] = []  # by this rank, of what was sent
        self.missing: set[int] = set()  # positions whose gradient is not ready in this pass
        self.flat: Tensor | None = None  # what was sent: all gradients, then for each parameter the ranks that used it
        self.sent: Any = None  # torch's handle of the sum

    def send(self, before: GradientSum | None = None, bad: Tensor | None = None) -> None:
        """Send the gradients.  before: those of earlier batches, to be added.  bad: (1,), whether to leave this one out."""
        earlier = [before.of(p) if before else None for p in self.parameters]
        flat = _flat([p.grad for p in self.parameters], self.parameters)
        if bad is not None:
            flat = torch.where(bad, 0.0, flat)
        if any(x is not None for x in earlier):
            flat += _flat(earlier, self.parameters)
        pairs = zip(self.parameters, earlier, strict=True)
        self.used = [p.grad is not None or x is not None for p, x in pairs]
        self.flat = torch.cat([flat, flat.new_tensor([float(used) for used in self.used])])
        self.sent = dist.all_reduce(self.flat, async_op=True)

    def receive(self) -> None:
        """Wait for the sum, and put it into .grad; None for a parameter that no rank used."""
        assert self.flat is not None
        self.sent.wait()
        sizes = [p.numel() for p in self.parameters]
        *summed, counts = self.flat.split([*sizes, len(sizes)])
        # What this rank used has been used; only for the others are counts read, which waits for the device.
        used = self.used if all(self.used) else counts.tolist()
        for p, x, count in zip(self.parameters, summed, used, strict=True):
            p.grad = x.view_as(p) if count else None
        self.flat = self.sent = None


def _flat(values: Sequence[Tensor | None], like: Sequence[nn.Parameter]) -> Tensor:
    """Return the values as one vector, with zeros for None."""
    pairs = zip(values, like, strict=True)
    return torch.cat([(torch.zeros_like(p) if x is None else x).detach().reshape(-1) for x, p in pairs])


class RankSum:
    """The sum over ranks of the gradients of some parameters; it is used by one step after another."""

    def __init__(self, parameters: Sequence[nn.Parameter], size: int = BYTES):
        """size: bytes of a bucket, at most; a larger parameter has a bucket of its own."""
        self.buckets = pack(parameters, size)
        self._next = 0  # the bucket to be sent next
        self._pass: tuple[GradientSum, Tensor] | None = None
        for bucket in self.buckets:
            for i, p in enumerate(bucket.parameters):
                p.register_post_accumulate_grad_hook(lambda p, bucket=bucket, i=i: self._ready(bucket, i))

    @contextlib.contextmanager
    def last_pass(self, before: GradientSum, bad: Tensor) -> Iterator[None]:
        """The context of the last backward pass of a step: full buckets are sent within it.

        before: gradients of the batches before.  bad: (1,), whether the loss of this one is not finite.
        """
        for bucket in self.buckets:
            bucket.missing = set(range(len(bucket.parameters)))
        self._pass = before, bad
        try:
            yield
        finally:
            self._pass = None

    def flush(self) -> None:
        """Send all buckets that are left, as they are in .grad.

        Every rank calls it in every step, before any other communication.
        """
        for bucket in self.buckets[self._next :]:
            bucket.send()
        self._next = len(self.buckets)

    def finish(self) -> None:
        """Wait for the sums, put them into .grad, and be ready for the next step.  Only after `flush`."""
        for bucket in self.buckets:
            bucket.receive()
        self._next = 0

    def _ready(self, bucket: Bucket, i: int) -> None:
        if self._pass is None:
            return
        bucket.missing.discard(i)
        while self._next < len(self.buckets) and not self.buckets[self._next].missing:
            self.buckets[self._next].send(*self._pass)
            self._next += 1


def pack(parameters: Sequence[nn.Parameter], size: int) -> list[Bucket]:
    """Pack parameters into buckets of at most `size` bytes, the last parameters first; types are not mixed."""
    groups: list[list[nn.Parameter]] = []
    room, kind = 0, None
    for p in reversed(parameters):
        bytes = p.numel() * p.element_size()
        if bytes > room or (p.dtype, p.device) != kind:
            groups.append([])
            room, kind = size, (p.dtype, p.device)
        groups[-1].append(p)
        room -= bytes
    return [Bucket(group) for group in groups]
