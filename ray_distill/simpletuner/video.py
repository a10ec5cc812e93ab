"""Rules for the `video` section of a dataset: frames of a clip, and least lengths of files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray_distill.simpletuner.document import is_comment
from ray_distill.simpletuner.lengths import codec_of
from ray_distill.simpletuner.outcome import File, Outcome
from ray_distill.simpletuner.values import Refused, blank, flag, one_of, one_or_more, whole
from ray_distill.simpletuner.weights import beginnings, model_name

Entry = Mapping[str, Any]


def frames(value: Any, entry: Entry, file: File) -> Outcome:
    count = whole(value)
    if count < 1:
        raise Refused("expected 1 frame or more")
    below, above = codec_of(file).fitting(count)
    note = "" if below == count else f"the model takes {below} or {above} frames: the first {below} of {count}"
    return Outcome({"frames": below}, note, warn=bool(note))


def interval(value: Any, entry: Entry, file: File) -> Outcome:
    return Outcome({"stride": one_or_more(value)})


def _interval(value: Any, entry: Entry, file: File) -> Outcome:
    """Read the section's interval. SimpleTuner reads it only for buckets by length, to which it rounds lengths."""
    every = whole(value)
    if _section(entry).get("bucket_strategy") == "resolution_frames":
        return Outcome(note="no effect: num_frames says how long a clip is", warn=every > 1)
    if every <= 1:
        return interval(value, entry, file)
    note = f"each {every}th frame of a file is taken; remove it if it was meant to round lengths"
    return Outcome({"stride": every}, note, warn=True)


def _shortest(value: Any, entry: Entry, file: File) -> Outcome:
    """Read the least number of frames of a file; it may not exceed the frames of a clip."""
    least, count = whole(value), _count(entry)
    if count is not None and least > count:
        raise Refused(f"files with num_frames = {count} frames are accepted here; use {count} or less")
    return Outcome(note="a file with fewer frames than a clip is left out and counted")


def _longest(value: Any, entry: Entry, file: File) -> Outcome:
    most, count = whole(value), _count(entry)
    if count is not None and most < count:
        raise Refused(f"no file has num_frames = {count} then; use more")
    return Outcome(note="no effect: of a longer file its first frames are taken", warn=True)


def _buckets(value: Any, entry: Entry, file: File) -> Outcome:
    strategy = one_of(value, ("aspect_ratio", "resolution_frames"))
    if strategy == "resolution_frames" and _count(entry) is None:
        raise Refused("clips have one length here; give num_frames")
    return Outcome(note="clips of one size and length share a bucket")


def _from_picture(value: Any, entry: Entry, file: File) -> Outcome:
    """Read true: a clip's first frame is a condition. Wan 2.2 5B and LTX-2 allow both; other models must agree
    with the value."""
    asked, possible = flag(value), beginnings(file)
    if file.overrides("model.from_image"):
        return Outcome(note="no effect: model.from_image is set elsewhere")
    if asked and True not in possible:
        name = model_name(file) or "the model"
        raise Refused(f"{name} begins from text; use false, an i2v flavour, Wan 2.2 5B or LTX-2")
    if not asked and False not in possible:
        raise Refused("the model begins from each clip's first frame; use true")
    note = "the model begins from each clip's first frame" if asked else "text alone is given"
    return Outcome({"model.from_image": asked} if len(possible) == 2 else {}, note)


PARTS: Mapping[str, Callable[[Any, Entry, File], Outcome]] = {
    "num_frames": frames,
    "frame_interval": _interval,
    "min_frames": _shortest,
    "max_frames": _longest,
    "bucket_strategy": _buckets,
    "is_i2v": _from_picture,
}


def video(value: Any, entry: Entry, file: File) -> Outcome:
    """The outcome of the whole section; Refused names the section's key."""
    if not isinstance(value, dict):
        raise Refused(f"expected a section of {', '.join(PARTS)}")
    outcomes = []
    for key, each in _section(entry).items():
        try:
            outcomes.append(PARTS[one_of(key, PARTS)](each, entry, file))
        except Refused as error:
            raise Refused(f"{key}: {error}") from None
    values = {key: each for outcome in outcomes for key, each in outcome.values.items()}
    notes = dict.fromkeys(outcome.note for outcome in outcomes if outcome.note)
    return Outcome(values, "; ".join(notes), any(outcome.warn for outcome in outcomes))


def _section(entry: Entry) -> dict[str, Any]:
    return {key: each for key, each in entry["video"].items() if not is_comment(key) and not blank(each)}


def _count(entry: Entry) -> int | None:
    """The number of frames that the file asks for; None where it does not."""
    section = _section(entry) if isinstance(entry.get("video"), dict) else {}
    count = section.get("num_frames", entry.get("num_frames"))
    return None if count is None else whole(count)
