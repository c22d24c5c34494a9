"""Deepening of a trained encoder: new layers on top start as the identity, and training goes on.

The residual branches of a new layer start at zero (Chen, Goodfellow and Shlens, "Net2Net", arXiv 1511.05641, section 2.4: a
deeper net starts as the same function).  Its other weights are copied from the last layer (Gong et al., "Efficient training of
BERT by progressively stacking", ICML 2019).  So `samba-asr train --init MODEL model.layers=N` starts with MODEL's accuracy.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from samba_asr.errors import UserError
from samba_asr.models.encoder import Encoder, EncoderLayer

OUTPUTS = ("down", "out_proj", "project")  # the linear maps that end a feed-forward, a mixer, the convolution module


def deepen(encoder: Encoder, layers: int) -> None:
    """Add layers that start as the identity on top of `encoder`, until it has `layers` layers.

    UserError for an encoder with fusion, which would read the new layers' outputs, too.
    """
    if encoder.fusion is not None:
        raise UserError("model.fusion reads the outputs of a fixed number of layers: more layers are not possible")
    last = encoder.layers[-1]
    while len(encoder.layers) < layers:
        encoder.layers.append(_identity(last))
        encoder.depths = [*encoder.depths, encoder.depths[-1]]


@torch.no_grad()
def _identity(layer: EncoderLayer) -> EncoderLayer:
    """Return a copy of `layer` that maps the output of `layer` to itself, except for the scale of each frame.

    The final norm of a layer cannot be removed.  Its input is an output of `layer`, w * n + b with n of mean 0 and variance
    1.  So its weight and bias become the mean standard deviation and the mean of such frames.
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
