"""The utterances of a training run, from the manifests in `data.*`."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

from samba_asr.config import DataConfig
from samba_asr.data.manifest import Utterance, read_manifest
from samba_asr.errors import UserError


class Sets(NamedTuple):
    """Utterances for training and validation, and noises to mix in."""

    train: list[Utterance]
    valid: list[Utterance]
    noise: list[Utterance]


def read_sets(config: DataConfig) -> Sets:
    """Read the utterances of data.train (with data.weights), data.valid and data.noise.

    UserError if data.train is empty, or if the weights do not fit the manifests.
    """
    if not config.train:
        raise UserError("data.train is empty: give one manifest or more, such as 'data.train=[data/train.jsonl]'")
    check_weights(config)
    train, valid, noise = (
        [u for path in paths for u in read_manifest(path)] for paths in (config.train, config.valid, config.noise)
    )
    if config.weights:
        train = [
            dataclasses.replace(u, weight=u.weight * weight)
            for path, weight in zip(config.train, config.weights, strict=True)
            for u in read_manifest(path)
        ]
    return Sets(train, valid, noise)


def check_weights(config: DataConfig) -> None:
    """Raise UserError unless data.weights is empty, or as long as data.train, finite, not negative and not all 0."""
    weights, fix = config.weights, "give a number for each manifest, such as data.weights=[1,3]"
    if not weights:
        return
    if len(weights) != len(config.train):
        raise UserError(f"data.weights has {len(weights)} numbers, data.train has {len(config.train)} manifests: {fix}")
    for weight, path in zip(weights, config.train, strict=True):
        if not (math.isfinite(weight) and weight >= 0):
            raise UserError(f"data.weights: {weight} of {path} is not a number of at least 0: {fix}")
    if not any(weights):
        raise UserError(f"data.weights are all 0, so there is nothing to train on: {fix}")
