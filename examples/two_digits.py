"""A harder video data set that needs no download: two real handwritten digits in colour, one passing before the other.

    python examples/two_digits.py data/two_digits [--count 4000] [--frames 33] [--period 0] [--seed 0]

The images are twenty of scikit-learn's real scanned digits (8x8, enlarged to 24x24). Colours and motion are made up:
the digits begin at the left and right edges, each has its own curved path, which never leaves the picture however long
the clip is, and within the first 33 frames one digit covers part of the other. With ``--period 32`` they meet in the
middle after 16 frames and are at their edges again after 32, so that each period is like the first.

A clip is 48x48 at 8 frames a second, written at 96x96 so that people can watch it, with a caption like "a red five in
front of a blue three". The first digit has a warm colour and begins at the left, the second a cool one and begins at
the right. Writes ``manifest.jsonl`` and ``videos/``; running it again changes nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from moving_digits import DIGITS
from PIL import Image
from sklearn.datasets import load_digits

from ray_distill.data.read.video import write_clip

WARM = {"red": (235, 55, 45), "yellow": (235, 205, 40)}
COOL = {"green": (45, 190, 70), "blue": (60, 100, 250)}
COLOURS = WARM | COOL
SPEED = (0.4, 0.8)
"""Pixels a frame, as the root of the path's mean square speed."""
DEPTHS = ("in front of", "behind")
FRAMES, SIZE, DIGIT, ENLARGE, FPS, CRF = 33, 48, 24, 2, 8, 10
HANDWRITINGS = 2
"""Images of each digit."""
HELD_OUT_EVERY = 10
NEAR = 12
"""Pixels between two digits' centres at which one covers part of the other for certain."""


@dataclass(frozen=True)
class Path2D:
    """x(t) = room/2 (1 + sum_k a_k sin(w_k t + p_k)) per axis, with sum_k |a_k| <= 1: in the picture at every t."""

    amplitude: np.ndarray
    """[2 axes, 2 waves]"""
    frequency: np.ndarray
    phase: np.ndarray

    def at(self, t: np.ndarray) -> np.ndarray:
        """Top and left [T, 2] of the digit at frames ``t`` [T], real numbers in [0, SIZE - DIGIT]."""
        waves = self.amplitude * np.sin(self.frequency * t[:, None, None] + self.phase)
        return (SIZE - DIGIT) / 2 * (1 + waves.sum(-1))


@dataclass(frozen=True)
class Clip:
    """What one clip shows; the first digit is the one that is named first."""

    images: tuple[int, int]
    colours: tuple[str, str]
    depth: str
    paths: tuple[Path2D, Path2D]

    def caption(self, labels: np.ndarray) -> str:
        first, second = (
            f"a {colour} {DIGITS[labels[image]]}" for image, colour in zip(self.images, self.colours, strict=True)
        )
        return f"{first} {self.depth} {second}"


def random_path(rng: np.random.Generator, side: int) -> Path2D:
    """Two waves an axis, which begin halfway down at the left (``side`` -1) or right (1) edge; scaled in time so that
    the root mean square of the speed is within ``SPEED``."""
    share = rng.uniform(0.6, 0.9, size=2)
    amplitude = np.array([[rng.uniform(0.6, 1.0)], [0.95]]) * np.stack([share, 1 - share], 1)
    frequency = rng.uniform([1.0, 1.8], [1.5, 2.6], size=(2, 2))
    mean_square = ((SIZE - DIGIT) / 2) ** 2 * (amplitude * frequency).__pow__(2).sum() / 2
    phase = np.array([rng.choice([0, np.pi], size=2), [side * np.pi / 2] * 2])
    return Path2D(amplitude, frequency * rng.uniform(*SPEED) / np.sqrt(mean_square), phase)


def periodic_path(rng: np.random.Generator, side: int, period: int) -> Path2D:
    """A path from the edge at ``side`` towards the middle and back in ``period`` frames, halfway down at both ends."""
    inward, down, share = rng.uniform(0.25, 0.5), rng.uniform(0.15, 0.4), rng.uniform(0.6, 0.9)
    turn = 2 * np.pi / period
    amplitude = np.array([[down * share, down * (1 - share)], [1 - inward, inward]])
    phase = np.array([rng.choice([0, np.pi], size=2), [side * np.pi / 2] * 2])
    return Path2D(amplitude, np.array([[turn, 2 * turn], [0, turn]]), phase)


def plan(number: int, images: np.ndarray, seed: int, period: int = 0) -> Clip:
    """Clip ``number`` of a data set, which depends on no other clip; ``images`` are numbers of digits to draw from."""
    rng = np.random.default_rng([seed, number])
    colours = str(rng.choice(list(WARM))), str(rng.choice(list(COOL)))
    t = np.arange(FRAMES)
    while True:  # about two pairs of paths in three meet
        path = partial(periodic_path, period=period) if period else random_path
        paths = path(rng, -1), path(rng, 1)
        if np.linalg.norm(paths[0].at(t) - paths[1].at(t), axis=1).min() < NEAR:
            break
    shown = rng.choice(images, 2, replace=False)
    return Clip((int(shown[0]), int(shown[1])), colours, str(rng.choice(DEPTHS)), paths)


def plans(count: int, seed: int, period: int = 0) -> list[Clip]:
    """All clips, which show the first images of each digit."""
    labels = load_digits().target
    images = np.concatenate([np.flatnonzero(labels == digit)[:HANDWRITINGS] for digit in range(len(DIGITS))])
    return [plan(number, images, seed, period) for number in range(count)]


def is_held_out(number: int) -> bool:
    return number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


def enlarged(image: np.ndarray) -> np.ndarray:
    """An 8x8 image of 0..16 -> opacity [24, 24] in [0, 1]."""
    grey = Image.fromarray((image * (255 / 16)).round().astype(np.uint8))
    return np.asarray(grey.resize((DIGIT, DIGIT), Image.Resampling.BILINEAR), dtype=np.float64) / 255


def place(glyph: np.ndarray, top: float, left: float) -> np.ndarray:
    """Opacity [48, 48] of ``glyph`` at a place between pixels, by bilinear weights."""
    canvas = np.zeros((SIZE + 1, SIZE + 1))
    (y, dy), (x, dx) = ((int(np.floor(v)), v - np.floor(v)) for v in (top, left))
    for down, weight_y in ((0, 1 - dy), (1, dy)):
        for right, weight_x in ((0, 1 - dx), (1, dx)):
            canvas[y + down : y + down + DIGIT, x + right : x + right + DIGIT] += weight_y * weight_x * glyph
    return canvas[:SIZE, :SIZE]


def draw(clip: Clip, images: np.ndarray, frames: int = FRAMES) -> np.ndarray:
    """uint8 [frames, 48, 48, 3]; a longer clip begins with the shorter one."""
    glyphs = [enlarged(images[i]) for i in clip.images]
    colours = [np.array(COLOURS[colour], dtype=np.float64) for colour in clip.colours]
    where = [path.at(np.arange(frames)) for path in clip.paths]
    back_to_front = (1, 0) if clip.depth == "in front of" else (0, 1)
    video = np.zeros((frames, SIZE, SIZE, 3))
    for t in range(frames):
        for digit in back_to_front:
            opacity = place(glyphs[digit], *where[digit][t])[..., None]
            video[t] = (1 - opacity) * video[t] + opacity * colours[digit]
    return video.round().astype(np.uint8)


def write(folder: Path, images: np.ndarray, frames: int, clip: tuple[str, Clip]) -> None:
    name, shown = clip
    video = draw(shown, images, frames).repeat(ENLARGE, axis=1).repeat(ENLARGE, axis=2)
    write_clip(folder / name, video, FPS, CRF)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--period", type=int, default=0, help="frames after which all is as in the first (0: never)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    start = time.monotonic()

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8)
    clips = [(f"videos/{i:05d}.mp4", clip) for i, clip in enumerate(plans(args.count, args.seed, args.period))]
    rows = [{"video": name, "caption": clip.caption(labels), "frames": args.frames} for name, clip in clips]
    # The manifest is a pure function of the arguments, and is written last: where it stands, all its videos do.
    text = "".join(json.dumps(row) + "\n" for row in rows)
    manifest = args.folder / "manifest.jsonl"
    if manifest.is_file() and manifest.read_text() == text:
        print(f"{manifest} already lists these {args.count} clips: nothing to do")
        return
    manifest.unlink(missing_ok=True)
    (args.folder / "videos").mkdir(parents=True, exist_ok=True)
    with Pool() as pool:
        pool.map(partial(write, args.folder, images, args.frames), clips, chunksize=32)
    temporary = manifest.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(manifest)
    print(f"{manifest}: {args.count} clips of two real digits, {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
