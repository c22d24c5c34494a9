"""AdamW, learning-rate schedules, and the exponential moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from samba_asr.config import OptimConfig
from samba_asr.errors import UserError

SCHEDULES = ("cosine", "noam", "constant")
ENCODER = "net.acoustic."  # the parameters of a recognizer's encoder, in the objective


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Make AdamW with weight decay on matrices only.

    Vectors and scalars (norms, biases) have no weight decay, and neither have parameters with `_no_weight_decay = True`, as
    in state-spaces/mamba: A_log, D, dt_bias.  Frozen parameters are left out.  With `encoder_lr` the parameters of a
    recognizer's encoder are groups of their own.  UserError if the model has none.
    """
    if config.encoder_lr < 0:
        raise UserError(
            f"optim.encoder_lr={config.encoder_lr}: give a learning rate above 0, or 0 for that of the rest"
        )
    share = config.encoder_lr / config.lr if config.encoder_lr else 1.0
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {(False, True): [], (False, False): []}
    for name, p in model.named_parameters():
        if p.requires_grad:
            decays = p.ndim >= 2 and not getattr(p, "_no_weight_decay", False)
            groups.setdefault((share != 1 and name.startswith(ENCODER), decays), []).append(p)
    if share != 1 and len(groups) == 2:
        raise UserError(
            f"optim.encoder_lr={config.encoder_lr}: this model is no recognizer with an encoder: leave it out"
        )
    made = [
        {"params": some, "weight_decay": config.weight_decay if decays else 0.0, "share": share if encoder else 1.0}
        for (encoder, decays), some in groups.items()
    ]
    return torch.optim.AdamW(made, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to its share of `lr`.  A group of an older checkpoint has no share: 1."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("share", 1.0)


def learning_rate(config: OptimConfig, step: int, progress: float) -> float:
    """Return the learning rate of step 1, 2, ... at `progress` (0 to 1) of the run.

    Every schedule has a linear warm-up over `warmup` steps to the peak `lr`:
        constant   lr
        cosine     lr * (f + (1 - f) (1 + cos(pi progress)) / 2), f = final_lr
        noam       lr * sqrt(warmup / step) after the warm-up (Vaswani et al. 2017, scaled to peak at `lr`)
    """
    warmup = max(config.warmup, 1)
    rise = min(1.0, step / warmup)
    if config.schedule == "constant":
        return config.lr * rise
    if config.schedule == "noam":
        return config.lr * min(rise, math.sqrt(warmup / step))
    if config.schedule == "cosine":
        fall = (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2
        return config.lr * rise * (config.final_lr + (1 - config.final_lr) * fall)
    raise UserError(f"optim.schedule={config.schedule!r}: choose one of {', '.join(SCHEDULES)}")


class MovingAverage:
    """Exponential moving average of a model's parameters, for evaluation: average += (1 - decay) (weights - average).

    The decay of step k is at most (1 + k) / (10 + k), so that the initial weights soon lose influence.  Buffers are not
    averaged, because they are constant in these models.
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise UserError(f"train.ema={decay}: give a decay between 0 (off) and 1, for instance 0.999")
        self.decay = decay
        self.weights: dict[str, Tensor] = {n: p.detach().clone() for n, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = [*self.weights.values()]
        current: list[Tensor] = [*model.parameters()]
        torch._foreach_lerp_(averages, current, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's weights and the average.  A second call restores them."""
        for name, p in model.named_parameters():
            kept = p.detach().clone()
            p.copy_(self.weights[name])
            self.weights[name].copy_(kept)


class GradientSum:
    """The gradients of several batches, summed apart from .grad, so that those of a bad batch can be left out."""

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self._parameters = parameters
        self._sums: dict[nn.Parameter, Tensor] = {}

    @torch.no_grad()
    def take(self, unless: Tensor) -> None:
        """Add every .grad and clear it; if `unless` is 1, the device leaves it out, NaN or not, and nobody waits for that.

        torch has one operation on lists of tensors that obeys such a flag: the fused update of an optimizer.  Plain SGD of
        rate 1, uphill, is addition.
        """
        used = [p for p in self._parameters if p.grad is not None]
        for p in used:
            if p not in self._sums:
                self._sums[p] = torch.zeros_like(p)
        if used:
            torch._fused_sgd_(  # pyright: ignore[reportPrivateImportUsage]
                [self._sums[p] for p in used],
                [p.grad for p in used if p.grad is not None],
                [],
                weight_decay=0.0,
                momentum=0.0,
                lr=1.0,
                dampening=0.0,
                nesterov=False,
                maximize=True,
                is_first_step=False,
                found_inf=unless.float(),
            )
        for p in used:
            p.grad = None

    def of(self, p: nn.Parameter) -> Tensor | None:
        """Return the sum of a parameter so far; None if no batch used it."""
        return self._sums.get(p)

    def give_back(self) -> None:
        """Put the sums into .grad."""
        for p, total in self._sums.items():
            p.grad = total
