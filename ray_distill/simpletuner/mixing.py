"""Mix several datasets: shared keys, how often each dataset is seen, and which sizes fit together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray_distill.config.keys import ConfigError
from ray_distill.simpletuner.outcome import File, Outcome

Part = dict[str, Any]
FROM_IMAGE = "model.from_image"
CLIP = {
    "frames": None,
    "stride": 1,
    "resolution": None,
    "crop": False,
    "minimum_image_size": 0,
    "minimum_aspect_ratio": None,
    "maximum_aspect_ratio": None,
}
"""Keys that datasets may share -> SimpleTuner's default for a dataset without the key; None: no default."""


def own_keys(parts: Sequence[Part]) -> tuple[Part, list[Part]]:
    """(keys for all data, each dataset's own keys). The values of the first dataset with videos hold for all data;
    another dataset gets its own value, or SimpleTuner's default, where it differs."""
    first = next((part for part in parts if "prompts" not in part), parts[0])
    lengths = [part["frames"] for part in (first, *parts) if "frames" in part]
    shared = {key: first[key] for key in CLIP if key in first} | ({"frames": lengths[0]} if lengths else {})
    whole = [part if "prompts" in part else {**_defaults(shared), **part} for part in parts]
    return shared, [{k: v for k, v in part.items() if k not in shared or v != shared[k]} for part in whole]


def _defaults(shared: Part) -> Part:
    return {key: value for key, value in CLIP.items() if value is not None and key in shared}


def square(parts: Sequence[Part], path: Path) -> None:
    """ConfigError where squares are mixed with other sizes, since data.height and data.width allow one fixed size."""
    seen: dict[str, str] = {}
    for number, part in enumerate(parts):
        if "data.resolution_type" in part:
            fixed = part["data.resolution_type"] == "fixed"
            edge = part["data.height"] if fixed else part["resolution"]
            size = f"a square of {edge} pixels (crop)" if fixed else "its own aspect"
            seen.setdefault(size, str(part.get("id", number)))
    if len(seen) > 1:
        sizes = ", ".join(f"{name!r} {size}" for size, name in seen.items())
        raise ConfigError(
            f"{path}: two sizes: {sizes}. Squares have one size in a run: give all datasets the same crop and "
            "resolution; or set crop=false or crop_aspect=preserve in all, for a resolution of their own"
        )


def one_beginning(parts: Sequence[Part], path: Path) -> None:
    """ConfigError where some datasets ask for clips that begin from a picture, and others for clips from text alone."""
    asked = {part[FROM_IMAGE]: str(part.get("id", number)) for number, part in enumerate(parts) if FROM_IMAGE in part}
    if len(asked) > 1:
        raise ConfigError(
            f"{path}: is_i2v is true of {asked[True]!r} and false of {asked[False]!r}, and a run has one beginning; "
            "give all datasets the same"
        )


def mix(parts: Sequence[Part], file: File) -> tuple[list[Part], Outcome | None]:
    """(datasets with ``repeats`` or ``probability``, the outcome to report).

    SimpleTuner's auto-weighting draws a dataset in proportion to probability x clips, and uniform to probability alone.
    """
    factors = [float(part.get("probability", 1)) for part in parts]
    plain = [{key: value for key, value in part.items() if key != "probability"} for part in parts]
    if len(parts) > 1 and file.settings.get("data_backend_sampling") == "uniform":
        shares = [{k: v for k, v in part.items() if k != "repeats"} for part in plain]
        note = "uniform: each dataset has its share of the samples, whatever its length; repeats have no effect"
        return (
            [part | {"probability": factor} for part, factor in zip(shares, factors, strict=True)],
            Outcome(note=note, warn=any(part.get("repeats") for part in parts)),
        )
    if len(set(factors)) == 1:
        return plain, None
    often = [factor * (1 + part.get("repeats", 0)) for factor, part in zip(factors, parts, strict=True)]
    passes = [round(each / min(often), 6) for each in often]
    note = f"auto-weighting: an epoch shows a clip of each dataset {', '.join(f'{each:g}' for each in passes)} times"
    return [part | {"repeats": each - 1} for part, each in zip(plain, passes, strict=True)], Outcome(note=note)
