"""`samba-asr lm`: language models: train one, pack it, pronounce its words, find the weight it deserves."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from samba_asr import config as configs
from samba_asr.config import Config, DecodeConfig
from samba_asr.errors import UserError

logger = logging.getLogger(__name__)

LINES = 500_000  # of the text, that a tokenizer is made of
WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
BONUSES = (-1.0, 0.0, 1.0, 2.0, 3.0)
NEURAL_WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7)


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "lm",
        help="language models",
        description="Train a language model, pronounce its words, find the weight it deserves.",
    )
    kinds = parser.add_subparsers(dest="lm", metavar="WHAT", required=True)
    _add_train(kinds)
    _add_pack(kinds)
    _add_mamba(kinds)
    _add_lexicon(kinds)
    _add_tune(kinds)
    return parser


def _add_train(kinds) -> None:
    parser = kinds.add_parser(
        "train",
        help="an n-gram from text",
        description="Train an n-gram (Kneser-Ney, pruned) from text, a sentence a line.",
    )
    parser.add_argument("text", nargs="+", type=Path, metavar="FILE", help="text, plain or .gz, .xz, .bz2")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="packed if its name ends in .ngram, else ARPA, gzipped if in .gz",
    )
    parser.add_argument("--order", type=int, default=3, metavar="N", help="longest n-gram (default: %(default)s)")
    parser.add_argument(
        "--words", type=int, default=100_000, metavar="N", help="most frequent words (default: %(default)s)"
    )
    parser.add_argument(
        "--growth", type=float, default=0.02, metavar="X", help="smaller takes up more n-grams (default: %(default)s)"
    )
    parser.add_argument(
        "--pruning", type=float, default=0.04, metavar="X", help="smaller keeps more of them (default: %(default)s)"
    )
    parser.set_defaults(run=run_train)


def _add_pack(kinds) -> None:
    parser = kinds.add_parser(
        "pack",
        help="an n-gram in a third of the bytes",
        description="Write an ARPA file as a packed one: a third of the size of a gzipped one, loaded in a tenth of the time, "
        "and good wherever an ARPA file is.  Logarithms are kept to 1/32 nat.",
    )
    parser.add_argument("lm", type=Path, metavar="ARPA", help="plain or .gz")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="such as lm.ngram")
    parser.set_defaults(run=run_pack)


def _add_mamba(kinds) -> None:
    parser = kinds.add_parser(
        "mamba",
        help="a Mamba language model from text",
        description="Train a Mamba language model in --exp, or continue the run that is there, and write it to --exp/model.  "
        "The settings that matter are lm.*, optim.*, train.max_minutes and tokenizer.*.  Under torchrun, on every process.",
    )
    parser.add_argument("text", nargs="+", type=Path, metavar="FILE", help="text, plain or .gz, .xz, .bz2")
    parser.add_argument("--exp", type=Path, required=True, metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--valid",
        type=Path,
        required=True,
        metavar="FILE",
        help="text, or a manifest of utterances (JSONL), for the perplexity",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FOLDER",
        help="take the units of this model, which lets the beam ask at every unit (default: bpe of the text)",
    )
    parser.add_argument("--bfloat16", action="store_true", help="write matrices in half the bytes")
    parser.add_argument(
        "--config", nargs="+", action="extend", default=[], metavar="NAME_OR_FILE", help="as in samba-asr train"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        dest="overrides",
        metavar="key=value",
        help="settings, such as lm.layers=2",
    )
    parser.set_defaults(run=run_mamba)


def _add_lexicon(kinds) -> None:
    parser = kinds.add_parser(
        "lexicon",
        help="how the words of a language model are pronounced",
        description="Write a lexicon.txt for decode.lm.lexicon of a model of phones: CMUdict, and a guess for other words.",
    )
    parser.add_argument("lm", type=Path, metavar="LM", help="ARPA file")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="Kaldi's lexicon.txt")
    parser.set_defaults(run=run_lexicon)


def _add_tune(kinds) -> None:
    parser = kinds.add_parser(
        "tune",
        help="weights by word error rate",
        description="Try weights of a language model on a validation set, never the test set, from the middle of the grid "
        "towards better neighbours, and print the best settings; then, where decode.lm.neural reads the n-best, its weight.",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="model folder")
    parser.add_argument("--data", type=Path, required=True, metavar="MANIFEST", help="utterances with texts, JSONL")
    parser.add_argument("--device", default="auto", help="auto | cpu | cuda | cuda:1 (default: %(default)s)")
    parser.add_argument(
        "--save",
        action="store_true",
        help="make the best settings the model's own, and put the files that they name into its folder",
    )
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS, metavar="X", help="of decode.lm.weight")
    parser.add_argument(
        "--bonuses", type=float, nargs="+", default=BONUSES, metavar="X", help="of decode.lm.word_bonus"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        dest="overrides",
        metavar="key=value",
        help="search settings, such as decode.lm=lm.ngram decode.search.beam=16",
    )
    parser.set_defaults(run=run_tune)


def run_train(args: argparse.Namespace) -> int:
    from samba_asr.decoding import packed
    from samba_asr.decoding.ngram import read_arpa
    from samba_asr.text.lm import read_lines, train_ngram

    sizes = {"order": args.order, "words": args.words, "growth": args.growth, "pruning": args.pruning}
    if args.out.suffix == ".ngram":
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=args.out.parent) as folder:  # hundreds of MB: not where /tmp is memory
            train_ngram(read_lines(args.text), Path(folder) / "lm.arpa", **sizes)
            packed.write(args.out, *read_arpa(Path(folder) / "lm.arpa"))
    else:
        train_ngram(read_lines(args.text), args.out, **sizes)
    logger.info("%s: %.1f MB", args.out, args.out.stat().st_size / 1e6)
    return 0


def run_pack(args: argparse.Namespace) -> int:
    from samba_asr.decoding import packed
    from samba_asr.decoding.ngram import read_arpa

    packed.write(args.out, *read_arpa(args.lm))
    before, after = (path.stat().st_size / 1e6 for path in (args.lm, args.out))
    logger.info("%s: %.1f MB, %.1f before", args.out, after, before)
    return 0


def run_mamba(args: argparse.Namespace) -> int:
    """0; 130 or 143 when SIGINT or SIGTERM ended training early, after saving."""
    from itertools import islice

    import torch

    from samba_asr.data.manifest import read_manifest
    from samba_asr.data.text import TextSet
    from samba_asr.models.lm import MambaLm
    from samba_asr.models.lm_folder import save_lm
    from samba_asr.text.lm import read_lines
    from samba_asr.text.tokenizer import has_tokenizer, load_tokenizer, train_tokenizer
    from samba_asr.training import checkpoint, distributed
    from samba_asr.training.tasks import TextTask
    from samba_asr.training.trainer import run

    config = configs.load(args.config, ["train.epochs=1000", "data.buckets=50", *args.overrides])
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=0))
    try:
        args.exp.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--exp {args.exp}: cannot make this folder ({error.strerror})") from None
    valid = (
        [u.text for u in read_manifest(args.valid)] if args.valid.suffix == ".jsonl" else list(read_lines([args.valid]))
    )
    ranks = distributed.start(config.train.device)
    if ranks.rank == 0 and not has_tokenizer(args.exp):
        if args.tokenizer:
            load_tokenizer(args.tokenizer).save(args.exp)
        else:
            size = config.tokenizer.vocab_size if config.tokenizer.kind == "bpe" else None
            train_tokenizer(islice(read_lines(args.text), LINES), config.tokenizer.kind, size, args.exp)
    ranks.barrier()
    tokenizer = load_tokenizer(args.exp)
    logger.info("reading the text")
    text = TextSet(read_lines(args.text), tokenizer, config)
    result = run(config, args.exp, tokenizer, lambda config: TextTask(config, tokenizer, text, valid))
    if ranks.rank == 0 and not result.signal:
        config = configs.load(folder=args.exp)
        model = MambaLm(config.lm, config.model.vocab_size)
        model.load_state_dict(checkpoint.average(checkpoint.choose(args.exp, best=1, last=0)))
        dtype = torch.bfloat16 if args.bfloat16 else torch.float32
        perplexity = result.best.value if result.best else math.nan
        save_lm(args.exp / "model", model, config, tokenizer, perplexity=perplexity, dtype=dtype)
    return 128 + result.signal if result.signal else 0


def run_lexicon(args: argparse.Namespace) -> int:
    from samba_asr.decoding.ngram import BEGIN, END, UNKNOWN, read_ngram
    from samba_asr.text.lexicon import cmudict, for_words

    words = [word for word in read_ngram(args.lm).ids if word not in (BEGIN, END, UNKNOWN)]
    for_words(words, cmudict()).write(args.out)
    return 0


def run_tune(args: argparse.Namespace) -> int:
    """A line a pair of weights, then the best."""
    import torch

    from samba_asr.data.dataset import AudioStore, evaluation_batches
    from samba_asr.data.manifest import read_manifest
    from samba_asr.decoding.base import Hypothesis, text_of
    from samba_asr.decoding.build import READ, beam_search, neural_lm, word_guide
    from samba_asr.device import choose_device
    from samba_asr.metrics.wer import score
    from samba_asr.models.folder import load_model
    from samba_asr.recognizer import blocks
    from samba_asr.runtime.torch import TorchRuntime

    loaded = load_model(args.model, choose_device(args.device))
    config = configs.load(overrides=["decode.search.method=beam", *args.overrides], folder=args.model)
    if not config.decode.lm.path:
        raise UserError("there is nothing to tune without a language model: --set decode.lm=FILE")
    utterances = read_manifest(args.data)
    references = {u.id: u.text for u in utterances}
    if not any(references.values()):
        raise UserError(f"{args.data} has no texts to compare with")
    runtime = TorchRuntime(loaded.model)
    latency = blocks(config.decode, runtime)
    guide = word_guide(loaded, config.decode)
    guides, reader = neural_lm(loaded, config.decode, alone=False)
    if guides:
        raise UserError(
            f"decode.lm.neural={config.decode.lm.neural} guides the beam itself, which is not tuned here: leave it out, or take "
            "one that has other units and reads the n-best"
        )
    frames = []  # the frames stay the same: only the search runs again
    store = AudioStore(config.model.features.sample_rate, cache=False)
    with torch.inference_mode():
        for batch in evaluation_batches(utterances, loaded.tokenizer, store, batch_seconds=config.data.batch_seconds):
            found = runtime.forward(batch.audio, batch.lengths, latency)
            frames.append((batch.ids, found.log_probs.cpu(), found.lengths.cpu()))

    def search(weight: float, bonus: float, nbest: int = 1) -> dict[str, list[Hypothesis]]:
        beam = beam_search(config.decode.search, guide.weighted(weight=weight, bonus=bonus))
        found = {}
        for ids, log_probs, lengths in frames:
            state = beam.finish(beam.step(log_probs, lengths, beam.init_state(len(ids))))
            found |= zip(ids, beam.hypotheses(state, nbest), strict=True)
        return found

    def told(settings: str, found: dict[str, list[Hypothesis]]) -> float:
        report = score(references, {i: text_of(some[0], loaded.tokenizer) for i, some in found.items()})
        print(settings, report.kaldi_lines()[0], flush=True)
        return 100 * report.wer

    def rate(weight: float, bonus: float) -> float:
        return told(f"decode.lm.weight={weight:g} decode.lm.word_bonus={bonus:g}", search(weight, bonus))

    (weight, bonus), wer = climb(sorted(args.weights), sorted(args.bonuses), rate)
    best = dataclasses.replace(config.decode.lm, weight=weight, word_bonus=bonus)
    settings = f"decode.lm.weight={weight:g} decode.lm.word_bonus={bonus:g}"
    if reader is not None:
        nbest = search(weight, bonus, min(READ, config.decode.search.beam))
        reader.weight = 1.0
        read = {i: reader([some])[0] for i, some in nbest.items()}  # once: a weight changes only the sum
        first = {(i, h.tokens, h.words): h.score for i, some in nbest.items() for h in some}
        tried = {0.0: wer}
        for share in NEURAL_WEIGHTS:
            found = {
                i: sorted(some, key=lambda h, i=i: -(first[i, h.tokens, h.words] * (1 - share) + h.score * share))
                for i, some in read.items()
            }
            tried[share] = told(f"decode.lm.neural_weight={share:g}", found)
        share = min(tried, key=tried.get)
        best, wer = dataclasses.replace(best, neural_weight=share), tried[share]
        settings += f" decode.lm.neural_weight={share:g}"
    print(f"best: {settings} at {wer:.2f} %")
    if weight in (min(args.weights), max(args.weights)) or bonus in (min(args.bonuses), max(args.bonuses)):
        print("the best lies at the edge of what was tried: try further with --weights and --bonuses")
    if args.save:
        _save(args.model, loaded.config, dataclasses.replace(config.decode, lm=best))
    return 0


def climb(
    weights: Sequence[float], bonuses: Sequence[float], rate: Callable[[float, float], float]
) -> tuple[tuple[float, float], float]:
    """The pair with the lowest rate on the way from the middle of the grid to a place whose neighbours are no better."""
    tried: dict[tuple[int, int], float] = {}
    best, place = math.inf, (len(weights) // 2, len(bonuses) // 2)
    while True:
        i, j = place
        for a, b in ((i, j), (i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            if (a, b) not in tried and 0 <= a < len(weights) and 0 <= b < len(bonuses):
                tried[a, b] = rate(weights[a], bonuses[b])
        place = min(tried, key=tried.get)
        if not tried[place] < best:
            return (weights[place[0]], bonuses[place[1]]), best
        best = tried[place]


def _save(folder: Path, config: Config, decode: DecodeConfig) -> None:
    """Make `decode` the model's own, with the files that it names in its folder."""
    from samba_asr.models.folder import copy_search_files

    decode = copy_search_files(decode, folder, folder)
    configs.save(dataclasses.replace(config, decode=decode), folder / "config.yaml")
    logger.info("%s: these settings are the model's own now", folder)
