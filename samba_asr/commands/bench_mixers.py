"""`samba-asr bench mixers`: train every mixer on one task and compare error rates, speed and size; a table and a picture."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samba_asr import plot
from samba_asr.commands.bench_common import threads
from samba_asr.config import MIXERS
from samba_asr.errors import UserError

if TYPE_CHECKING:
    from samba_asr.bench.mixers import Comparison

TABLE, RESULTS, PICTURE = "mixers.md", "results.json", "mixers.png"


def add_parser(kinds) -> None:
    parser = kinds.add_parser(
        "mixers",
        help="error rate and speed of every mixer on one task",
        description="Train each mixer with each seed on the same batches, for the same steps or minutes, and recognize the "
        f"tests.  --out gets a folder for each run, {TABLE}, {RESULTS} and {PICTURE}.  Runs that are done are not repeated, and "
        "a killed one continues: the same command may be given again, with more mixers or seeds.  Example: samba-asr bench "
        "mixers --out exp/mixers --config model/tiny train/cpu digits --steps 1000 --test data/test.jsonl "
        "data.train=[data/train.jsonl] data.valid=[data/dev.jsonl]",
    )
    parser.add_argument(
        "--mixers",
        nargs="+",
        default=[],
        metavar="NAME[:key=value]",
        help=f"mixers, with settings if need be, such as mamba:init=lin or hydra:model.layers=6 (default: {' '.join(MIXERS)})",
    )
    parser.add_argument("--config", nargs="+", action="extend", default=[], metavar="NAME_OR_FILE", help="as in train")
    parser.add_argument("--test", nargs="+", required=True, metavar="MANIFEST", help="test sets")
    parser.add_argument("--steps", type=int, default=0, metavar="N", help="steps of each run: equal data")
    parser.add_argument("--minutes", type=float, default=0, metavar="M", help="or minutes of each run: equal time")
    parser.add_argument("--seeds", nargs="+", default=["1", "2"], metavar="S", help="default: 1 2")
    parser.add_argument(
        "--latency", nargs="+", default=["offline", "640", "320"], metavar="MS", help="default: offline 640 320"
    )
    parser.add_argument(
        "--lexicon", type=Path, metavar="FILE", help="pronunciations, where the units are phones (default: CMUdict's)"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="calls of each layer (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: as torch chooses)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the comparison")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="settings of all runs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do the runs that are missing, then write and print the table; return 0."""
    from samba_asr.bench import mixers
    from samba_asr.bench.measure import apart, hardware

    comparison, count = _comparison(args), threads(args)
    comparison.out.mkdir(parents=True, exist_ok=True)
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    module = "samba_asr.bench.mixers"
    mixers.complete(comparison, lambda question: apart(module, count, {"what": "run", **question}), say)
    say("speed of one layer of each, in turns")
    question = {
        "files": list(comparison.files),
        "variants": {v.name: comparison.settings(v) for v in comparison.variants},
        "rounds": args.rounds,
    }
    layers = apart(module, count, {"what": "speed", **question})
    found = results(comparison, layers["variants"])
    found |= {"hardware": hardware("cpu"), "threads": layers["threads"]}
    (comparison.out / RESULTS).write_text(json.dumps(found, indent=1))
    text = table(found)
    (comparison.out / TABLE).write_text(text)
    print(text, end="")
    try:
        say(f"drawn: {draw(found, comparison.out / PICTURE)}")
    except UserError as error:  # without the extra
        say(f"no picture: {error}")
    return 0


def _comparison(args: argparse.Namespace) -> Comparison:
    from samba_asr.bench.mixers import Comparison, chosen
    from samba_asr.evaluation.testset import read_testset

    if (args.steps > 0) == (args.minutes > 0) or min(args.steps, args.minutes) < 0 or not math.isfinite(args.minutes):
        raise UserError(f"--steps {args.steps} --minutes {args.minutes:g}: give one of them, more than 0")
    if args.rounds < 1:
        raise UserError(f"--rounds {args.rounds}: give 1 or more")
    # `--config a b key=value`: argparse gives all three to --config, and so it does for all options of several words
    given = (args.config, args.test, args.mixers, args.seeds, args.latency)
    files, manifests, names, seeds, latencies = ([t for t in of if "=" not in t.split(":")[0]] for of in given)
    settings = [text for of in given for text in of if "=" in text.split(":")[0]]
    for text in latencies:
        if text != "offline" and not (text.isdigit() and int(text) > 0):
            raise UserError(f"--latency {text}: give milliseconds, or offline")
    for text in seeds:
        if not text.isdigit():
            raise UserError(f"--seeds {text}: give whole numbers from 0 on")
    if args.lexicon and not args.lexicon.is_file():
        raise UserError(f"--lexicon {args.lexicon}: no such file")
    for name, values in (("--seeds", seeds), ("--mixers", names), ("--latency", latencies)):
        if len(set(values)) < len(values):
            raise UserError(f"{name} {' '.join(map(str, values))}: give each once")
    tests = {Path(name).stem: name for name in manifests}
    if not tests or len(tests) < len(manifests):
        raise UserError(f"--test {' '.join(manifests)}: give manifests of different names")
    for name in manifests:
        read_testset(Path(name))
    return Comparison(
        args.out,
        chosen(names),
        tuple(map(int, seeds)),
        tuple(files),
        (*settings, *args.overrides),
        args.steps,
        args.minutes,
        tests,
        tuple(latencies),
        str(args.lexicon or ""),
    )


def results(comparison: Comparison, layers: dict[str, Any]) -> dict[str, Any]:
    """Return all numbers of the table: for each variant those of its runs and of its layer, and its scores.

    A score is a tie with the best of its test and latency if the paired bootstrap interval of their difference has 0 in it.
    """
    from samba_asr import config as configs
    from samba_asr.bench.mixers import pooled, read_run
    from samba_asr.metrics.wer import bootstrap, compare

    rows: dict[str, dict[str, Any]] = {}
    for variant in comparison.variants:
        runs = [read_run(comparison, variant, seed) for seed in comparison.seeds]
        learned = [run["learned"] for run in runs]
        rows[variant.name] = {
            **{f"layer_{key}": value for key, value in layers[variant.name].items()},
            "parameters": runs[0]["parameters"],
            "ms_a_step": 60_000 * sum(run["minutes"] for run in runs) / max(1, sum(run["steps"] for run in runs)),
            "steps": sum(run["steps"] for run in runs) / len(runs),
            "learned": None if None in learned else max(learned),
            "scores": {},
        }
    for test in comparison.tests:
        for latency in comparison.latencies:
            scored = {v.name: pooled(comparison, v, test, latency) for v in comparison.variants}
            best = min(scored.values(), key=lambda found: found[0].wer)[0]
            for name, (report, of_seeds) in scored.items():
                low, high = bootstrap(report)
                versus = compare(report, best)
                rows[name]["scores"].setdefault(test, {})[latency] = {
                    "wer": 100 * report.wer,
                    "interval": [100 * low, 100 * high],
                    "seeds": of_seeds,
                    "tie": bool(versus.low <= 0 <= versus.high),
                }
    budget = f"{comparison.steps} steps" if comparison.steps else f"{comparison.minutes:g} minutes"
    search = configs.load(comparison.files, comparison.settings(comparison.variants[0])).decode.search.method
    return {"variants": rows, "budget": budget, "seeds": list(comparison.seeds), "search": search}


def table(found: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    rows = found["variants"]
    columns = [(test, latency) for test, of in next(iter(rows.values()))["scores"].items() for latency in of]
    head = ["mixer", *(f"{test}, {latency}" for test, latency in columns)]
    head += ["below 50 % at step", "ms a step", "steps", "M parameters", "state, KB a layer"]
    head += ["layer, training ms", "in blocks of 16", "live step, 1 / 16 sessions, ms"]
    lines = [head, ["---"] * len(head)]
    for name, row in rows.items():
        cells = [f"`{name}`"]
        for test, latency in columns:
            at = row["scores"][test][latency]
            low, high = at["interval"]
            seeds = "" if len(at["seeds"]) == 1 else f" ({', '.join(f'{wer:.1f}' for wer in at['seeds'])})"
            cells.append(f"{'**' * at['tie']}{at['wer']:.2f}{'**' * at['tie']} [{low:.1f}, {high:.1f}]{seeds}")
        cells += ["never" if row["learned"] is None else str(row["learned"]), f"{row['ms_a_step']:.0f}"]
        cells += [f"{row['steps']:.0f}", f"{row['parameters'] / 1e6:.2f}", f"{4 * row['layer_state'] / 1024:.1f}"]
        cells += [f"{row['layer_train_ms']:.0f}", f"{row['layer_blocks_ms']:.0f}"]
        lines.append([*cells, f"{row['layer_live_1_ms']:.2f} / {row['layer_live_16_ms']:.2f}"])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return (
        f"{text}\n\nWER in %, by {found['search']} search, [95 % interval over utterances] (each seed); bold: the best, or not "
        f"to be told from it by a paired bootstrap.\n{found['budget']} a run, seeds {', '.join(map(str, found['seeds']))}; "
        f"{found['hardware']}, {found['threads']} thread{'s' * (found['threads'] != 1)}. The times of a layer were taken in "
        "turns; those of a step include all that ran beside.\n"
    )


def draw(found: dict[str, Any], path: Path) -> Path:
    """Draw error rates with their intervals, one line for each test and latency, and the times of a layer beside them."""
    rows = found["variants"]
    figure = plot.figure(11, 1.5 + 0.45 * len(rows))
    rates, times = figure.subplots(1, 2, sharey=True)
    names = list(rows)
    columns = [(test, latency) for test, of in rows[names[0]]["scores"].items() for latency in of]
    for number, (test, latency) in enumerate(columns):
        at = [rows[name]["scores"][test][latency] for name in names]
        place = [i + 0.12 * (number - (len(columns) - 1) / 2) for i in range(len(names))]
        spread = [[s["wer"] - s["interval"][0] for s in at], [s["interval"][1] - s["wer"] for s in at]]
        rates.errorbar([s["wer"] for s in at], place, xerr=spread, fmt="o", capsize=2, label=f"{test}, {latency}")
    rates.set(xlabel="WER, %, with 95 % interval", yticks=range(len(names)), yticklabels=names)
    rates.invert_yaxis()
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12), "ncol": 3, "fontsize": "small"}  # hides no point
    rates.legend(**below)
    for key, label in (
        ("train_ms", "training, 8 x 16 s"),
        ("live_1_ms", "live step"),
        ("live_16_ms", "of 16 sessions"),
    ):
        first = rows[names[0]][f"layer_{key}"]
        times.plot([rows[name][f"layer_{key}"] / first for name in names], range(len(names)), "o", label=label)
    times.set(xlabel=f"time of a layer, as a multiple of {names[0]}'s")
    times.legend(**below)
    for axis in (rates, times):
        axis.grid(alpha=0.3)
    figure.suptitle(f"{found['budget']} a run, seeds {', '.join(map(str, found['seeds']))}")
    return plot.save(figure, path)
