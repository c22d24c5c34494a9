"""`samba-asr average`: average the checkpoints of a run into a model folder."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from samba_asr.errors import UserError

logger = logging.getLogger(__name__)


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "average",
        help="average checkpoints into a model folder",
        description="Average the weights of a run's checkpoints and write a model folder for transcribe.  "
        "Without --best, --last or files, it takes as many of the best by validation score as the run keeps.",
    )
    parser.add_argument("--exp", type=Path, required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="model folder to write")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--best", type=int, metavar="N", help="the N checkpoints with the best validation scores")
    chosen.add_argument("--last", type=int, metavar="N", help="the last N checkpoints")
    chosen.add_argument("files", type=Path, nargs="*", default=[], metavar="epoch-NNN.pt", help="these checkpoints")
    parser.add_argument(
        "--with",
        type=Path,
        nargs="+",
        default=[],
        metavar="MODEL",
        dest="models",
        help="also average the result with these models, folders or shipped models.  The model with which fine-tuning started "
        "keeps what it forgets (M. Wortsman et al., Robust fine-tuning of zero-shot models, 2022)",
    )
    parser.add_argument("--bfloat16", action="store_true", help="write matrices as bfloat16, in half the bytes")
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="MANIFEST",
        help="utterances with texts for the confidences of the new model (default: the validation data of the run, if the "
        "configuration withholds words of low confidence)",
    )
    parser.add_argument("--no-calibrate", action="store_true", help="leave the new model without calibration")
    parser.add_argument(
        "--language", default="", help="for the model card (default: that of the models it is made from)"
    )
    parser.add_argument(
        "--license", default="", help="license of the weights, for the model card (default: that of those models)"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    import torch

    from samba_asr.hub import model_folder
    from samba_asr.training.average import average_run

    of = average_run(
        args.exp,
        args.out,
        best=args.best,
        last=args.last,
        files=args.files,
        models=[model_folder(folder) for folder in args.models],
        dtype=torch.bfloat16 if args.bfloat16 else torch.float32,
        language=args.language,
        license=args.license,
    )
    logger.info("%s: the mean of %s", args.out, ", ".join(of))
    if not args.no_calibrate:
        calibrated(args.out, args.calibrate)
    return 0


def calibrated(model: Path, manifest: Path | None) -> None:
    """Calibrate the new model on the manifest, or on the validation data of its run if it withholds words of low confidence."""
    from samba_asr import config as configs
    from samba_asr.data.manifest import read_manifest
    from samba_asr.decoding.confidence import ungated
    from samba_asr.evaluation.calibrate import calibrate

    config = configs.load(folder=model)
    bound = config.decode.endpoint.confidence
    if manifest is None and not bound:
        return
    found = [manifest] if manifest else [Path(path) for path in config.data.valid if Path(path).is_file()]
    try:
        if not found:
            raise UserError(f"its validation data are not there ({', '.join(config.data.valid) or 'none'})")
        calibrate(model, [utterance for path in found for utterance in read_manifest(path)])
    except UserError as error:
        if manifest:
            raise
        logger.warning("not calibrated: %s.  %s", error, ungated(bound, model))
