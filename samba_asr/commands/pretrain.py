"""`samba-asr pretrain`: self-supervised pretraining of the encoder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from samba_asr.commands.train import configured

if TYPE_CHECKING:
    from samba_asr.config import Config
    from samba_asr.models.acoustic import AcousticModel


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "pretrain",
        help="pretrain an encoder on speech without texts",
        description="Pretrain an encoder on speech without texts, or continue the run.  pretrain.objective=best_rq predicts "
        "codes of hidden spans, masked their features, causal those of the next frame, diffusion removes noise.  Then "
        "`samba-asr train --init-encoder EXP/model` with the same model.* trains the whole model.  Under torchrun, all its "
        "processes train together.",
    )
    parser.add_argument(
        "--exp", type=Path, required=True, metavar="DIR", help="folder of the run; the encoder is written to DIR/model"
    )
    parser.add_argument(
        "--config", nargs="+", action="extend", default=[], metavar="NAME_OR_FILE", help="as in samba-asr train"
    )
    parser.add_argument(
        "--probe",
        type=Path,
        metavar="MANIFEST",
        help="afterwards measure how many frames of these utterances with texts a linear map of the encoder assigns to the right "
        "phone, as aligned by the bundled model; speakers are held out in turn",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="data.train=[speech.jsonl,...], data.valid=[...], pretrain.objective=masked, train.max_minutes=60, ...",
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Pretrain; return 0, or 130 or 143 if SIGINT or SIGTERM ended training early, after saving."""
    from samba_asr.data.sets import read_sets
    from samba_asr.models.folder import save_encoder
    from samba_asr.training import checkpoint, distributed
    from samba_asr.training.objectives.pretraining import new_encoder
    from samba_asr.training.tasks import PretrainTask
    from samba_asr.training.trainer import run as train

    config = configured(args)
    sets = read_sets(config.data)
    ranks = distributed.start(config.train.device)
    result = train(config, args.exp, None, lambda config: PretrainTask(config, *sets))
    if ranks.rank == 0 and not result.signal:
        encoder = new_encoder(config.model)
        encoder.load_state_dict(checkpoint.average(checkpoint.choose(args.exp, best=0, last=1)))
        save_encoder(args.exp / "model", encoder, config)
        if args.probe:
            _probe(encoder, config, args.probe)
    return 128 + result.signal if result.signal else 0


def _probe(encoder: AcousticModel, config: Config, manifest: Path) -> None:
    """Print the results of the probe, beside those of random weights."""
    from samba_asr.evaluation.probe import probe
    from samba_asr.evaluation.testset import read_testset
    from samba_asr.recognizer import Recognizer
    from samba_asr.training.objectives.pretraining import new_encoder

    random = new_encoder(config.model)
    random.features.load_state_dict(encoder.features.state_dict())
    encoders = {"random weights": random.eval(), config.pretrain.objective: encoder.eval()}
    utterances = read_testset(manifest)
    found, n = probe(encoders, Recognizer.load(), utterances, batch_seconds=config.data.batch_seconds)
    print(f"phones of {n} frames right, %    last layer    all layers")
    for name, shares in found.items():
        print(f"{name:30s}  {shares.last:10.1f}    {shares.every:10.1f}")
