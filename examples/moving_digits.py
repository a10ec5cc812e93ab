"""Make a small video data set without a download: real handwritten digits in synthetic motion.

    python examples/moving_digits.py data/digits [--count 2000] [--seed 0]

The images are scikit-learn's 1,797 real scanned digits (8x8, enlarged to 12x12); the motion is synthetic: constant
speed along a centred path. A clip is 9 frames of 24x24, written at 96x96 so that people can watch it, with a caption
like "a seven moving left". It writes ``manifest.jsonl`` and ``videos/``; running it again changes nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from ray_distill.data.read.video import write_clip

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIRECTIONS = ("left", "right", "up", "down")
FRAMES, SIZE, DIGIT, ENLARGE, FPS, CRF = 9, 24, 12, 4, 8, 10


def plan(labels: np.ndarray, count: int, seed: int) -> list[tuple[int, str]]:
    """(image, direction) of each clip: all images before any is repeated, directions balanced within each digit."""
    rng = np.random.default_rng(seed)
    passes = -(-count // len(labels))
    images = np.concatenate([rng.permutation(len(labels)) for _ in range(passes)])[:count]
    directions = np.empty(count, dtype=int)
    for digit in range(len(DIGITS)):
        of_digit = np.flatnonzero(labels[images] == digit)
        # Each digit's count modulo 4 leaves a remainder; starting at the digit spreads it over the directions.
        directions[of_digit] = rng.permutation((np.arange(len(of_digit)) + digit) % len(DIRECTIONS))
    return [(int(image), DIRECTIONS[direction]) for image, direction in zip(images, directions, strict=True)]


def draw(image: np.ndarray, direction: str) -> np.ndarray:
    """Draw an 8x8 image of 0..16 that moves one pixel per frame through the middle: uint8 [9, 24, 24, 3]."""
    grey = Image.fromarray((image * (255 / 16)).round().astype(np.uint8))
    digit = np.asarray(grey.resize((DIGIT, DIGIT), Image.Resampling.BILINEAR))
    frames = np.zeros((FRAMES, SIZE, SIZE, 3), np.uint8)
    middle = (SIZE - DIGIT) // 2
    for t in range(FRAMES):
        along = middle + (t - FRAMES // 2) * (1 if direction in ("right", "down") else -1)
        top, left = (middle, along) if direction in ("left", "right") else (along, middle)
        frames[t, top : top + DIGIT, left : left + DIGIT] = digit[..., None]
    return frames


def caption_of(digit: str, direction: str) -> str:
    return f"{'an' if digit == 'eight' else 'a'} {digit} moving {direction}"


def write(folder: Path, clip: tuple[str, np.ndarray, str]) -> None:
    """Draw and write one (name, image, direction)."""
    name, image, direction = clip
    frames = draw(image, direction).repeat(ENLARGE, axis=1).repeat(ENLARGE, axis=2)
    write_clip(folder / name, frames, FPS, CRF)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    start = time.monotonic()

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8)
    clips = [
        (f"videos/{i:05d}.mp4", images[image], direction, caption_of(DIGITS[labels[image]], direction))
        for i, (image, direction) in enumerate(plan(labels, args.count, args.seed))
    ]
    # The manifest is a pure function of count and seed, and comes last: if it exists, so do all its videos.
    text = "".join(json.dumps({"video": name, "caption": caption}) + "\n" for name, _, _, caption in clips)
    manifest = args.folder / "manifest.jsonl"
    if manifest.is_file() and manifest.read_text() == text:
        print(f"{manifest} already lists these {args.count} clips: nothing to do")
        return
    manifest.unlink(missing_ok=True)
    (args.folder / "videos").mkdir(parents=True, exist_ok=True)
    with Pool() as pool:
        pool.map(partial(write, args.folder), [clip[:3] for clip in clips], chunksize=32)
    temporary = manifest.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(manifest)
    print(f"{manifest}: {args.count} clips of real digits in synthetic motion, {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
