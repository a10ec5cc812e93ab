"""Arguments of the command line: one parser for each verb, with the flags of that verb."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray_distill import __version__

EPILOG = """\
CONFIG is a YAML file, or SimpleTuner's JSON or FastVideo's YAML as it stands. A key is set by the file, then by the
environment (RAY_DISTILL_TRAIN__STEPS=100), then on the command line (train.steps=100). To start: make quickstart, or

  ray-distill train configs/quickstart.yaml train.steps=100 name=first_try

On a cluster: ray job submit --working-dir . -- python train.py CONFIG [key=value ...]
"""
PAGES = """\
The page needs no server, no network and no other file: open it in a browser, or send it. It shows what was run and
which place set each key, numbers with intervals, videos side by side, curves, checkpoints over time, warnings with
remedies, the plan beside what was measured, and how to load the student. A run writes it at its end, however it ends;
this command writes it again, also while the run is at work. It reads the run's files alone, samples nothing and
starts nothing. Videos beyond the limit are counted and named.
"""
ANSWERS = {
    "family": "such as wan2.1",
    "task": "t2v: videos of text; i2v: videos that begin from a picture",
    "goal": "small: the smallest network; large: the largest; stream: a causal student",
    "gpus": "such as 1xRTX4090-24GB or 2x8xH100-80GB",
    "data": "a folder of clips, a manifest, or a file of prompts",
}
"""The flags of init, each of which answers one question."""
FORMATS = (
    "a further file beside the folder for diffusers: comfyui_lora, kohya_lora, original_float32, original_bfloat16 or "
    "original_float8; several: give the flag again. Adapters of a fully trained student need model.export_lora_rank=N"
)
MACHINE = (
    "look at this machine instead: libraries, GPUs, NCCL, disk, shared memory, decoders, hub token, MLflow; CONFIG, "
    "which may be left out, says what is needed"
)
RUN_VERBS = {
    "check": "print the keys that are set, and refuse what would fail later; start nothing",
    "plan": "estimate memory, forwards, time and money by role; start nothing",
    "preflight": "sample the teacher, and compare our sampler with diffusers' pipeline, before a run; train nothing",
    "prepare": "encode videos and captions as latents and text embeddings into the cache",
    "train": "prepare, train, evaluate, export and track; resume a run that was stopped",
    "evaluate": "compare the newest checkpoint with the teacher: numbers and pictures",
    "export": "export the newest checkpoint as a folder that diffusers loads, in place of the one before",
    "sample": "sample videos from the newest checkpoint",
}
"""The verbs that take the configuration of a run."""


def parser() -> argparse.ArgumentParser:
    """The parser of all verbs. A parsed line has ``verb``, and ``overrides`` for verbs that take key=value."""
    top = argparse.ArgumentParser(
        prog="ray-distill",
        description="Distil many-step video diffusion teachers into few-step students on Ray.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"ray-distill {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    first = _verb(verbs, "init", "write a first configuration that fits your GPUs, from flags or from your answers")
    first.add_argument("output", type=Path, metavar="OUT", help="the YAML file to write, such as first.yaml")
    for name, text in ANSWERS.items():
        first.add_argument(f"--{name}", help=text)
    for verb, purpose in RUN_VERBS.items():
        one = _verb(verbs, verb, purpose)
        count = "?" if verb == "check" else None
        help_text = "a file, such as configs/quickstart.yaml"
        one.add_argument("config", type=Path, metavar="CONFIG", nargs=count, help=help_text)
        one.add_argument("--no-push", action="store_true", help="nothing leaves for the hub or a web hook")
        if verb == "plan":
            more = "dotted keys of the configuration; and cluster=2x8xH100-80GB, price=USD a GPU's hour, mfu=SHARE"
            _add_overrides(one, more)
        else:
            _add_overrides(one)
        if verb == "check":
            one.add_argument("--all", action="store_true", help="print every key with its value and meaning")
            text = "explain a key or a section, such as train.global_batch, and check nothing"
            one.add_argument("--machine", action="store_true", help=MACHINE)
            one.add_argument("--explain", action="append", metavar="KEY", help=text)
        if verb == "export":
            one.add_argument("--format", action="append", default=[], metavar="FORMAT", help=FORMATS)
        if verb == "sample":
            one.add_argument("--prompt", action="append", default=[], help="a prompt; several: give the flag again")
            one.add_argument("--prompts", type=Path, metavar="FILE", help="more prompts: lines of text, or JSON")
            one.add_argument("--image", type=Path, help="the picture that the video begins with")
            one.add_argument("--out", type=Path, help="the .mp4 (sample.mp4); of several videos their folder (samples)")
            one.add_argument("--seed", type=int, action="append", help="the seed of the noise (0); several: again")
            one.add_argument("--frames", type=int, help="length of a causal student's clip, written chunk by chunk")
    sweep = _verb(verbs, "tune", "search over the keys of a CONFIG; resume a search that was stopped")
    sweep.add_argument("config", type=Path, metavar="SWEEP", help="a file, such as configs/sweep_quickstart.yaml")
    _add_overrides(sweep, "dotted keys of the sweep")
    tool = _verb(verbs, "import", "write another tool's file as YAML, and print the use of each of its keys")
    tool.add_argument("tool", choices=["simpletuner", "fastvideo"], help="the tool that the file belongs to")
    tool.add_argument("config", type=Path, metavar="FILE", help="its JSON or YAML file")
    tool.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="the YAML file to write")
    tool.add_argument("--no-push", action="store_true", help="nothing leaves for the hub or a web hook")
    _add_overrides(tool)
    _add_report(verbs)
    late = _verb(verbs, "track", "send MLflow the calls that it missed of a run")
    late.add_argument("action", choices=["sync"], help="send the calls")
    late.add_argument("config", type=Path, metavar="RUN", help="the run's folder, such as output/quickstart")
    _add_overrides(late, "track.uri=...: the address of the run's server, with its password, if its folder has another")
    return top


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse one verb's arguments; flags may stand before, between and after key=value. Wrong ones raise
    SystemExit(2)."""
    verbs = parser()
    args, more = verbs.parse_known_args(argv)
    if unknown := [item for item in more if item.startswith("-")]:
        verbs.error(f"{args.verb} has no {unknown[0]}; see ray-distill {args.verb} --help")
    if args.verb == "check" and args.config is None and not args.machine:
        verbs.error("the following arguments are required: CONFIG (without one: check --machine)")
    if args.verb == "init" and more:
        verbs.error(f"init takes no {more[0]}; see ray-distill init --help")
    if args.verb == "init":
        return args
    args.overrides += more  # argparse does not parse the arguments behind a flag that follows the first key=value
    if args.verb == "export" and args.format:
        args.overrides.append(f"model.export_formats=[{', '.join(args.format)}]")
    if getattr(args, "no_push", False):
        args.overrides += ["publish=null", "track.webhook=null"]
    return args


def _add_report(verbs: Any) -> None:
    pages = _verb(
        verbs, "report", "write a page of one run, or a page that compares runs or the trials of a sweep", PAGES
    )
    pages.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a run's or a sweep's folder: output/quickstart"
    )
    pages.add_argument(
        "-o", "--out", type=Path, help="the .html to write (RUN/report.html; for several runs comparison.html)"
    )
    pages.add_argument(
        "--limit", type=_mebibytes, default=32.0, metavar="MIB", help="most MiB of videos in the page (32)"
    )
    pages.set_defaults(overrides=[])


def _verb(verbs: Any, name: str, purpose: str, more: str = "") -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(
        name, help=purpose, description=purpose, epilog=more or None, allow_abbrev=False
    )
    return verb


def _mebibytes(text: str) -> float:
    """``text`` as a size of 0 or more MiB; ArgumentTypeError for anything else."""
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if not 0 <= size < 1 << 20:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number of MiB, 0 or more")
    return size


def _add_overrides(verb: argparse.ArgumentParser, purpose: str = "dotted keys of the configuration") -> None:
    verb.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=purpose)
