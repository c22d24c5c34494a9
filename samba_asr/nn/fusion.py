"""Fusion of the outputs of all encoder layers, without attention.

Diffusion models spread what they learn over their layers: fused latents of all layers classified EEG better than those of any
part (EEGDM, arXiv 2508.14086, table V).  Its authors fuse them by a transformer.  Here the heads read a weighted sum, frame by
frame, so it has no state and adds no latency (the scalar mix of ELMo, arXiv 1802.05365, eq. 1, with a gain per channel).
Shapes: b batch, t time, d channels, l layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from samba_asr.config import ModelConfig
from samba_asr.errors import UserError

LAST = 4.0  # initial logit of the last layer; those of the others are 0


class LatentFusion(nn.Module):
    """y = sum over layers i of softmax(weight)_i gain_i * x_i.  It starts as nearly the last layer alone."""

    def __init__(self, layers: int, d: int):
        super().__init__()
        weight = torch.zeros(layers)
        weight[-1] = LAST
        self.weight = nn.Parameter(weight)  # (l,)
        self.gain = nn.Parameter(torch.ones(layers, d))
        setattr(self.gain, "_no_weight_decay", True)  # noqa: B010  (a vector per layer, not a matrix)

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the fused frames (b, t, d) of the outputs (b, t, d) of all layers, in order."""
        scale = self.weight.softmax(0)[:, None] * self.gain  # (l, d)
        y = outputs[0] * scale[0].to(outputs[0].dtype)
        for x, s in zip(outputs[1:], scale[1:], strict=True):
            y = y + x * s.to(x.dtype)
        return y


def build_fusion(config: ModelConfig) -> LatentFusion | None:
    """Build the fusion if `model.fusion` asks for it; UserError if layers differ in the frames that they read."""
    if not config.fusion:
        return None
    for name, value in (("rates", config.rates), ("skip_blanks", config.skip_blanks)):
        if value:
            raise UserError(f"model.fusion and model.{name} do not go together: every layer must read every frame")
    return LatentFusion(config.layers, config.d_model)
