"""A deeper encoder out of a trained one: layers that begin as nothing are put on top, and training goes on.

What a new layer adds to the residual stream is zero at first (Chen, Goodfellow and Shlens, "Net2Net", arXiv 1511.05641, section
2.4: a deeper net begins as the same function), its other weights are the last layer's (Gong et al., "Efficient training of BERT
by progressively stacking", ICML 2019).  So `samba-asr train --init MODEL model.layers=N` loses nothing of what MODEL knows.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from samba_asr.models.encoder import Encoder, EncoderLayer

OUTPUTS = ("down", "out_proj", "project")  # the linear maps that end a feed-forward, a mixer, the convolution module


def deepen(encoder: Encoder, layers: int) -> None:
    """Put copies of the last layer that begin as nothing on top of `encoder`, until it has `layers` of them."""
    last = encoder.layers[-1]
    while len(encoder.layers) < layers:
        encoder.layers.append(_nothing(last))


@torch.no_grad()
def _nothing(layer: EncoderLayer) -> EncoderLayer:
    """A copy of `layer` whose output is its input, as `layer` would give it, but for the frame's own size.

    The norm that ends a layer cannot be taken away.  What it reads is the norm of `layer` itself, w * n + b with n of mean 0
    and variance 1: so it is given the mean and the standard deviation that such a frame has on the average.
    """
    new = copy.deepcopy(layer)
    for name, module in new.named_modules():
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in OUTPUTS:
            for parameter in module.parameters():
                parameter.zero_()
    weight, bias = layer.norm.weight, layer.norm.bias
    new.norm.weight.fill_((weight.square().mean() + bias.var(correction=0)).sqrt().item())
    new.norm.bias.fill_(bias.mean().item())
    return new
