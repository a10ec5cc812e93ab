"""Last lines of a verb: its results, their places, and the commands that come next."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ray_distill.columns import columns
from ray_distill.config import RunConfig
from ray_distill.data.prepare.index import QUARANTINE, SHEET
from ray_distill.evaluate.names import PAGE, PLOT
from ray_distill.secrets import mask
from ray_distill.track.pages import browsing


def command(verb: str, args: argparse.Namespace, *more: str) -> str:
    """The command of a verb on the configuration of ``args``, with its overrides, then ``more``."""
    return mask(shlex.join(["ray-distill", verb, str(args.config), *args.overrides, *more]))


def after(*commands: str) -> str:
    return "\n  ".join(["\nNext:", *commands])


def of_training(config: RunConfig, args: argparse.Namespace, prompt: str) -> str:
    """The places of a run's results; MLflow's page of it; a command that samples its student."""
    run, names = config.run_dir, ["contact_sheet.png", PLOT, "videos"]
    pictures = [str(run / name) for name in names if (run / name).exists()]
    places = [("page", run / PAGE), ("student", run / "export"), ("pictures", ", ".join(pictures))]
    rows = [(name, str(place)) for name, place in places if str(place)]
    sample = command("sample", args, "--prompt", prompt, "--out", "sample.mp4")
    return f"\n{columns(rows)}\n{after(*browsing(config.track.uri, run), sample)}"


def of_preparation(folder: Path, card: Mapping[str, Any], args: argparse.Namespace) -> str:
    """A cache's counts, what of its files no sample shows, its places, and the commands that come next."""
    return f"\n{columns([*_counts(card), *_places(folder)])}\n{after(*(command(v, args) for v in ('check', 'train')))}"


def files_of(folder: Path) -> str:
    """The files of an export with their sizes, those of a folder in one line; README.md says how each is used."""
    sizes = {path: sum(each.stat().st_size for each in [path, *path.rglob("*")]) for path in sorted(folder.iterdir())}
    rows = [(f"{path.name}{'/' * path.is_dir()}", f"{size / 1e6:,.1f} MB") for path, size in sizes.items()]
    return f"{columns(rows, '<>')}\n{folder / 'README.md'} says how each is used"


def _counts(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    count = card.get("equal_rows", card["repeated"])  # cards of earlier versions count files alone
    again = f", {count} equal to others" if count else ""
    yield "clips", f"{card['clips']} kept, {card['skipped']} left out{again}"
    yield from (("left out", f"{count}: {reason}") for reason, count in card["reasons"].items())
    if share := card.get("cropped"):
        yield "cropped away", f"{share['mean']:.0%} of a picture on average, {share['most']:.0%} at most"
    if seconds := card.get("seconds"):
        yield "length", f"{seconds['clips']:g} s in clips, of files of {seconds['files']:g} s"
    tokens, cut = card["tokens"], card["captions_cut"]
    lengths = f"{tokens['median']} tokens at the median, {tokens['most']} at most, of {tokens['taken']}"
    yield "captions", f"{card['captions']}; {lengths}{f'; {cut} are cut' if cut else ''}"
    yield from (("latents", f"{count} of {shape}") for shape, count in card["buckets"].items())
    for part in card["datasets"]:
        times = f"{part['passes']:g} time{'' if part['passes'] == 1 else 's'} an epoch"
        yield "data", f"{part['name']}: {part['rows']} samples, {times}, from {part['place']}"


def _places(folder: Path) -> Iterator[tuple[str, str]]:
    yield "cache", str(folder)
    if (folder / SHEET).is_file():
        yield "sheet", str(folder / SHEET)
    if (folder / QUARANTINE).is_file() and (folder / QUARANTINE).stat().st_size:
        yield "list of those left out", str(folder / QUARANTINE)
