"""Fine-tuning on a corpus of one's own, from its folder to a scored model folder.

    found = finetune("my_corpus", "my_model", minutes=10)
    print(found.before.wer, found.after.wer)

Steps: read and check the corpus, hold out a validation and a test set by speaker, train from the old model's weights, average the
result with the old model (M. Wortsman et al., "Robust fine-tuning of zero-shot models", 2022), adapt its neural language model to
the texts in the same way, calibrate the confidences, and score both models on the test set.  Intermediate files are in
`OUT.work`; the same call continues a run that was interrupted.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from samba_asr import config as configs
from samba_asr.data.manifest import Utterance, read_manifest
from samba_asr.data.prepare import PrepareOptions, split_by_speaker, write_splits
from samba_asr.data.readers import read_corpus
from samba_asr.data.unknown import unknown_words
from samba_asr.data.validate import Splits
from samba_asr.errors import UserError
from samba_asr.evaluation.calibrate import calibrate
from samba_asr.evaluation.evaluate import Evaluation, evaluate
from samba_asr.hub import model_folder
from samba_asr.models.card import Card, inherited_license, origin
from samba_asr.models.folder import load_model, record_result
from samba_asr.text.normalize import upper
from samba_asr.text.numbers import spoken
from samba_asr.text.units import Tokenizer
from samba_asr.training import finetune as training
from samba_asr.training.average import average_run
from samba_asr.training.language_model import adapt

logger = logging.getLogger(__name__)

SHARES = {"dev": 0.1, "test": 0.1}
FEWEST = 4  # utterances: two to train on, one to validate, one to test
WORDS = 20  # recognized in the validation set; fewer calibrate nothing
STEPS = 20  # in an epoch, at least: each ends with a validation and a save, so a short corpus is repeated in it
SAID = 500  # words of training that a language model can be adapted to, at least
CPU = "train/cpu"  # configuration over that of the old model
SHORT = ("data.batch_seconds=15", "optim.warmup=10")  # a few minutes allow few steps; these learn (egs/fsdd/RESULTS.md)


@dataclass(frozen=True)
class FinetuneOptions:
    """Options of `finetune`.

    init      old model: a folder, or the name of a shipped model
    minutes   maximum duration of training
    prepare   checks of the corpus; utterances with problems are left out by default
    settings  overrides of the training configuration
    license   of the new weights, for the model card (default: that of the old model)
    language_model  whether to adapt the model's neural language model to the texts
    """

    init: Path | str = "english"
    minutes: float = 20.0
    settings: Sequence[str] = ()
    license: str = ""
    language_model: bool = True
    prepare: PrepareOptions = PrepareOptions(fix=True, kaldi=False)  # noqa: RUF009  (frozen)


@dataclass(frozen=True)
class Finetuned:
    """The result of `finetune`: scores of the old and the new model on the test set.

    by_speaker  whether the sets have no speaker in common
    perplexity  of the validation texts before and after, if the neural language model was adapted
    """

    model: Path
    before: Evaluation
    after: Evaluation
    calibrated: bool
    by_speaker: bool
    perplexity: tuple[float, float] | None = None


def finetune(
    corpus: Path | str,
    out: Path | str,
    options: FinetuneOptions = FinetuneOptions(),
    *,
    stage: Callable[[str], None] = lambda text: None,
) -> Finetuned:
    """Fine-tune a model on `corpus` and write the model folder `out`.

    corpus: any path that `samba-asr prepare` reads.  stage: called with a line before each step.
    UserError for a corpus that cannot be read, or has too few utterances.
    """
    init, out = model_folder(options.init), Path(out)
    work = out.with_name(out.name + ".work")
    stage(f"reading {corpus}")
    manifests, by_speaker = _prepared(corpus, work / "data", init, options.prepare)
    stage("scoring the old model")
    before = evaluate(init, manifests["test"])
    stage(f"training for at most {options.minutes:g} minutes")
    config = _config(init, manifests, options)
    result = training.run(config, work / "exp", init=init)
    if result.signal:
        raise UserError(f"stopped by signal {result.signal}: the same command continues")
    stage("averaging with the old model")
    average_run(work / "exp", out, models=[init])
    language = None
    if options.language_model and (lm := configs.load(folder=out).decode.lm.neural):
        stage("adapting the language model to the texts")
        language = _adapted(work / "exp" / lm, out / lm, manifests, work / "lm", options.minutes)
    stage("calibrating")
    calibrated = _calibrated(out, manifests["dev"])
    stage("scoring the new model")
    after = evaluate(out, manifests["test"])
    record_result(out, "test", {"data": str(manifests["test"]), **after.scores()})
    found = Finetuned(out, before, after, calibrated, by_speaker, language)
    (out / "README.md").write_text(_card(found, corpus, manifests, options), encoding="utf-8")
    return found


def _prepared(corpus: Path | str, out: Path, init: Path, options: PrepareOptions) -> tuple[dict[str, Path], bool]:
    """Write the manifests of train, dev and test; also return whether their speakers differ."""
    utterances = [u for u in read_corpus(corpus) if u.text]
    if len(utterances) < FEWEST:
        raise UserError(f"{corpus}: {len(utterances)} utterances with a text are too few: give {FEWEST} or more")
    speakers = {u.speaker for u in utterances}
    by_speaker = "" not in speakers and len(speakers) > len(SHARES)
    if not by_speaker:
        logger.warning(
            "%s: %d known speakers are too few to hold some out: the sets share speakers, and the scores are of known voices",
            corpus,
            len(speakers - {""}),
        )
    splits = split_by_speaker(utterances, SHARES) if by_speaker else _every_nth(utterances)
    options = replace(options, upper=_upper(load_model(init).tokenizer, utterances))
    manifests = write_splits(splits, out, options, overlap=not by_speaker)
    logger.info("%s", (out / "report.txt").read_text(encoding="utf-8").strip())
    return manifests, by_speaker


def _every_nth(utterances: Sequence[Utterance]) -> Splits:
    """Hold out utterances at equal distances: a tenth for dev and a tenth for test, at least one each."""
    held = max(1, len(utterances) // 10)
    step = len(utterances) / held
    chosen = {int(i * step): "test" for i in range(held)} | {int((i + 0.5) * step): "dev" for i in range(held)}
    splits: Splits = {"train": [], "dev": [], "test": []}
    for i, utterance in enumerate(utterances):
        splits[chosen.get(i, "train")].append(utterance)
    return splits


def _upper(tokenizer: Tokenizer, utterances: Sequence[Utterance]) -> bool:
    """Return whether more words are known if the texts are written as LibriSpeech's: capitals, no marks, numbers as words."""
    texts = [u.text for u in utterances]
    now = unknown_words(texts, tokenizer).share
    return unknown_words((upper(spoken(text)) for text in texts), tokenizer).share < now


def _config(init: Path, manifests: dict[str, Path], options: FinetuneOptions) -> configs.Config:
    own = [f"data.train=[{manifests['train']}]", f"data.valid=[{manifests['dev']}]", "data.weights=[]", "data.noise=[]"]
    own += [f"train.max_minutes={options.minutes:g}", *SHORT, *options.settings]
    config = configs.load([CPU], own, folder=init)
    seconds = sum(u.duration or 0.0 for u in read_manifest(manifests["train"]))
    passes = round(STEPS * config.data.batch_seconds / max(seconds, 1.0))
    if config.data.weights or passes < 2:
        return config
    return replace(config, data=replace(config.data, weights=(float(passes),)))


def _adapted(
    old: Path, new: Path, manifests: dict[str, Path], work: Path, minutes: float
) -> tuple[float, float] | None:
    """Adapt the language model of the new model; return the perplexities before and after, or log why it stays as it is."""
    train, dev = ([u.text for u in read_manifest(manifests[name])] for name in ("train", "dev"))
    words = sum(len(text.split()) for text in train)
    if words < SAID:
        logger.info("the language model stays as it is: %d words are too few to adapt it to (%d)", words, SAID)
        return None
    found = adapt(old, new, train, dev, work, minutes=minutes / 4)
    if found is None:
        logger.info("the language model stays as it is: adapted, it was no better on the validation texts")
    return found


def _calibrated(model: Path, manifest: Path) -> bool:
    """Calibrate on the validation set; otherwise warn, and return False."""
    why = ""
    try:
        words, *_ = calibrate(model, read_manifest(manifest), fewest=WORDS)
        return bool(words.right)
    except UserError as error:
        why = str(error)
    logger.warning(
        "not calibrated: %s.  Confidences are those of the search, and no word is withheld; with more speech: "
        "samba-asr calibrate --model %s --data MANIFEST",
        why,
        model,
    )
    return False


def _card(found: Finetuned, corpus: Path | str, manifests: dict[str, Path], options: FinetuneOptions) -> str:
    """Return the model card: data, scores, language, date, license."""
    sets = {name: read_manifest(path) for name, path in manifests.items()}
    hours = {name: sum(u.duration or 0.0 for u in some) / 3600 for name, some in sets.items()}
    speakers = len({u.speaker for u in sets["train"] if u.speaker})
    known = f", of {speakers} speakers" if speakers else ""
    rows = [
        f"| {name} | {e.wer:.2f} % | {e.interval[0]:.2f} to {e.interval[1]:.2f} |"
        for name, e in ((f"{options.init}, before", found.before), ("this model", found.after))
        if e.interval
    ]
    scores = [
        f"WER on the {len(sets['test'])} utterances ({60 * hours['test']:.1f} minutes) held out from the same corpus, "
        f"{'other speakers' if found.by_speaker else 'known speakers'}, with 95 % intervals:",
        "",
        "| model | WER | interval |",
        "|---|---|---|",
        *rows,
    ]
    data = f"{corpus}: {len(sets['train'])} utterances, {60 * hours['train']:.1f} minutes{known}"
    loaded, old = load_model(found.model), origin(model_folder(options.init))
    return Card(
        trained_on=data,
        made_from=f"{options.init}, with whose weights the result was averaged"
        + (", the language model's too" if found.perplexity else ""),
        scores="\n".join(scores),
        language=old.language,
        license=options.license or inherited_license([old]),
        date=datetime.date.today().isoformat(),
        calibrated=found.calibrated,
    ).text(loaded.model, loaded.config)
