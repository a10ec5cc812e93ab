"""Make clips of two correlated modalities without a download: real digits that move, and a tone that says where.

    python examples/digits_with_sound.py output/sound_toy      # eight clips to see and hear

The images are twenty of scikit-learn's scanned digits (8x8, two of each class); motion and sound are made up. A clip is
8 frames of 16x16 with a third of a second of sound. Its prompt names the digit and **not** the direction; of four tones
each direction has its own. So a joint model has to make both modalities agree: no prompt tells them how.
"""

from __future__ import annotations

import argparse
import itertools
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from moving_digits import DIGITS, DIRECTIONS
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from ray_distill.models.ltx2.hearing import BANDS, HOP, RATE, filters, log_mel
from ray_distill.models.patch_pca import PatchPCA

FRAMES, SIZE, DIGIT, HANDWRITINGS = 8, 16, 8, 2
ACROSS = (-1, 0, 1)
"""Pixels between a digit's path and the middle."""
TONES = (400.0, 800.0, 1600.0, 3200.0)
"""Hz, one of each of ``DIRECTIONS``."""
MEL_FRAMES = 36
LATENT = (16, 2, 4, 4, 9)
"""Shape of packed latents: channels, the picture's 2 x 4 x 4 tokens, 9 tokens of sound. LTX-2's VAEs make the same of 9
frames of 128 x 128."""
QUIET, LOUD = -8.0, 1.0
"""Log mel energies at which the spectrogram is cut: -1 and 1 of its latents' input."""


@dataclass(frozen=True)
class Clips:
    """``pixels`` [N, 3, 8, 16, 16] and ``mel`` [N, 36, 64], both in [-1, 1]; numbers of digit and direction [N]."""

    pixels: Tensor
    mel: Tensor
    digits: Tensor
    directions: Tensor


def handwritings() -> list[np.ndarray]:
    """Images [2, 8, 8] of 0..16 of each digit."""
    images, labels = load_digits(return_X_y=True)
    return [images[labels == digit][:HANDWRITINGS].reshape(-1, 8, 8) for digit in range(len(DIGITS))]


def draw(image: np.ndarray, direction: int, across: int) -> np.ndarray:
    """Draw an 8x8 image of 0..16 that moves one pixel a frame, ``across`` pixels beside the middle: [8, 16, 16] in
    [0, 1]."""
    frames = np.zeros((FRAMES, SIZE, SIZE), np.float32)
    middle = (SIZE - DIGIT) // 2
    for t in range(FRAMES):
        along = t if DIRECTIONS[direction] in ("right", "down") else FRAMES - 1 - t
        top, left = (middle + across, along) if direction < 2 else (along, middle + across)
        frames[t, top : top + DIGIT, left : left + DIGIT] = image / 16
    return frames


def tone(direction: int, rng: np.random.Generator) -> np.ndarray:
    """Samples [5600] at 16 kHz in [-1, 1]: the direction's tone, up to 6 % out of tune, of a random loudness, onset and
    decay."""
    seconds = np.arange((MEL_FRAMES - 1) * HOP) / RATE
    pitch, onset = TONES[direction] * rng.uniform(0.94, 1.06), rng.uniform(0.02, 0.1)
    after = np.clip(seconds - onset, 0, None)
    envelope = rng.uniform(0.15, 0.6) * np.clip(after / 0.01, 0, 1) * np.exp(-rng.uniform(2, 12) * after)
    return (envelope * np.sin(2 * np.pi * pitch * seconds + rng.uniform(0, 2 * np.pi))).astype(np.float32)


def spectrogram(samples: Tensor) -> Tensor:
    """Samples [N, n] -> log mel energies [N, 36, 64], by LTX-2's spectrogram, cut and scaled to [-1, 1]."""
    mel = log_mel(samples[:, None].repeat(1, 2, 1))[:, 0]
    return ((mel.clamp(QUIET, LOUD) - QUIET) / (LOUD - QUIET)) * 2 - 1


def make(count: int, seed: int) -> tuple[Clips, Tensor]:
    """Make ``count`` clips, digits and directions balanced and independent of one another, and their samples."""
    chosen = handwritings()
    rng = np.random.default_rng(seed)
    cells = rng.permutation(count) % (len(DIGITS) * len(DIRECTIONS))
    digits, directions = cells // len(DIRECTIONS), cells % len(DIRECTIONS)
    pairs = list(zip(digits, directions, strict=True))
    frames = np.stack([draw(chosen[d][rng.integers(HANDWRITINGS)], way, int(rng.choice(ACROSS))) for d, way in pairs])
    samples = torch.from_numpy(np.stack([tone(way, rng) for _, way in pairs]))
    pixels = torch.from_numpy(frames)[:, None].repeat(1, 3, 1, 1, 1) * 2 - 1
    clips = Clips(pixels, spectrogram(samples), torch.from_numpy(digits), torch.from_numpy(directions))
    return clips, samples


@dataclass(frozen=True)
class Codecs:
    """Two fixed linear codecs: of 4 x 4 x 4 pixels, and of 4 mel frames, for which a spectrogram is a grey video of
    width 1."""

    picture: PatchPCA
    sound: PatchPCA

    @classmethod
    def fit(cls, clips: Clips) -> Codecs:
        """The leading components, scaled by the square roots of their standard deviations."""
        channels = LATENT[0]
        picture = PatchPCA.fit(clips.pixels, (4, 4, 4), channels, whitening=0.5)
        return cls(picture, PatchPCA.fit(as_video(clips.mel), (4, BANDS, 1), channels, whitening=0.5))

    def encode(self, clips: Clips) -> Tensor:
        """Packed latents [N, 16, 32 + 9, 1, 1]."""
        parts = self.picture.encode(clips.pixels), self.sound.encode(as_video(clips.mel))
        return torch.cat([part.flatten(2) for part in parts], 2)[..., None, None]

    def decode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``pixels`` and ``mel`` of packed latents."""
        _, t, h, w, length = LATENT
        picture = x[:, :, : t * h * w, 0].unflatten(2, (t, h, w)).squeeze(-1)
        heard = self.sound.decode(x[:, :, t * h * w :, 0].reshape(len(x), -1, length, 1, 1))
        return self.picture.decode(picture), heard[:, :, :, :, 0].mean(1)

    def save(self, folder: Path) -> None:
        self.picture.save(folder / "picture")
        self.sound.save(folder / "sound")

    @classmethod
    def load(cls, folder: Path) -> Codecs:
        return cls(PatchPCA.load(folder / "picture"), PatchPCA.load(folder / "sound"))


def as_video(mel: Tensor) -> Tensor:
    return mel[:, None, :, :, None].repeat(1, 3, 1, 1, 1)


def seen_digit(pixels: Tensor) -> Tensor:
    """Numbers [N] of the digits in the nearest of all 240 possible pictures."""
    cells = itertools.product(range(len(DIGITS)), range(HANDWRITINGS), range(len(DIRECTIONS)), ACROSS)
    images, each = handwritings(), list(cells)
    pictures = np.stack([draw(images[digit][hand], way, across).ravel() for digit, hand, way, across in each])
    distances = torch.cdist((pixels.mean(1).flatten(1) + 1) / 2, torch.from_numpy(pictures))
    return torch.tensor([digit for digit, *_ in each])[distances.argmin(1)]


def seen_direction(pixels: Tensor) -> Tensor:
    """Numbers [N] of the directions in which the centre of brightness moves, of a line through its places."""
    bright = ((pixels.mean(1) + 1) / 2 - 0.1).clamp(min=0)
    mass = bright.sum((2, 3)).clamp(min=1e-6)
    place = torch.arange(SIZE, dtype=torch.float32)
    x, y = (bright.sum(2) * place).sum(2) / mass, (bright.sum(3) * place).sum(2) / mass
    time = torch.arange(FRAMES, dtype=torch.float32) - (FRAMES - 1) / 2
    dx, dy = (x * time).sum(1), (y * time).sum(1)
    return torch.where(dx.abs() > dy.abs(), (dx > 0).long(), 2 + (dy > 0).long())


def heard_direction(mel: Tensor) -> Tensor:
    """Numbers [N] of the directions whose tone has the most energy, in the mel band at its pitch and two beside it."""
    energy = (((mel + 1) / 2) * (LOUD - QUIET) + QUIET).exp().sum(1)
    centre = filters()[[round(pitch * 1024 / RATE) for pitch in TONES]].argmax(1)
    return torch.stack([energy[:, c - 2 : c + 3].sum(1) for c in centre.tolist()], 1).argmax(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    clips, samples = make(8, args.seed)
    for i, way in enumerate(clips.directions.tolist()):
        name = f"{i}_{DIGITS[int(clips.digits[i])]}_{DIRECTIONS[way]}"
        shades = ((clips.pixels[i, 0] + 1) * 127.5).byte().numpy()
        frames = [Image.fromarray(frame).resize((96, 96)) for frame in shades]
        frames[0].save(args.folder / f"{name}.gif", save_all=True, append_images=frames[1:], duration=125, loop=0)
        with wave.open(str(args.folder / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes((samples[i] * 32767).short().numpy().tobytes())


if __name__ == "__main__":
    main()
