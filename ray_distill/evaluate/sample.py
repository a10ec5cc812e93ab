"""Sample videos of prompts from a checkpoint, by the method's own recipe; chunk by chunk for a causal student."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ray_distill.config import ConfigError, RunConfig
from ray_distill.data.pictures import picture_rows
from ray_distill.data.read.clip import BadClip
from ray_distill.data.read.track import Track
from ray_distill.data.read.transform import to_frames
from ray_distill.data.read.video import write_chunks, write_clip
from ray_distill.diffusion.causal import chunk_lengths, longest
from ray_distill.diffusion.samplers import sample_chunks
from ray_distill.evaluate.latents import check_finite, denoiser, frames_of, make_latents
from ray_distill.evaluate.samples import Candidate
from ray_distill.evaluate.videos import enlarge, plain_name
from ray_distill.models.codec import Codec
from ray_distill.models.conditions import collate, unconditional
from ray_distill.models.packed import picture, sound, tensor_shape
from ray_distill.models.spec import Latent, Row, of_clips
from ray_distill.plaintext import blank
from ray_distill.rng import StatelessRng
from ray_distill.types import STUDENT, Chunks


class Clip(NamedTuple):
    """A video to sample: its prompt, the seed of its noise, and its file."""

    prompt: str
    seed: int
    out: Path


def clips_of(prompts: Sequence[str], seeds: Sequence[int], out: Path | None) -> list[Clip]:
    """A clip for each prompt and seed. One clip is the file ``out``, by default sample.mp4; several are files of the
    folder ``out``, by default samples. ConfigError without a prompt, for a blank one, for a seed that stands twice, for
    several clips of one file, and for one clip of a folder or of another kind of file, which is then the user's."""
    if not prompts or any(map(blank, prompts)):
        raise ConfigError('sample needs a prompt: --prompt "a seven moving left", or --prompts FILE')
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seed {' '.join(map(str, seeds))}: a seed stands twice, and its videos would be equal")
    if len(prompts) * len(seeds) == 1:
        if out is not None and (out.is_dir() or out.suffix.lower() != ".mp4"):
            file = out / "sample.mp4" if out.is_dir() else out.with_suffix(".mp4")
            raise ConfigError(f"--out {out}: one video is an mp4 file, such as {file}")
        return [Clip(prompts[0], seeds[0], out or Path("sample.mp4"))]
    if out is not None and (out.suffix or out.is_file()):
        raise ConfigError(f"--out {out}: {len(prompts) * len(seeds)} videos need a folder, such as --out samples")
    pairs = enumerate(product(prompts, seeds))
    return [
        Clip(prompt, seed, (out or Path("samples")) / f"{number:02d}_{plain_name(prompt)}_seed{seed}.mp4")
        for number, (prompt, seed) in pairs
    ]


def sample_videos(
    config: RunConfig,
    checkpoint: Path,
    clips: Sequence[Clip],
    image: Path | None = None,
    frames: int | None = None,
) -> Iterator[Path]:
    """Write an mp4 of each clip, and yield its path when it is written; networks are loaded once. A video begins with
    the picture ``image`` if the network takes one. Equal seeds give equal videos, alone or among others.

    With ``frames`` a causal student makes clips of that length, with only a chunk and its window in memory, and draws
    its noise by chunks. ConfigError if a picture is missing or not taken, if the method has no chunks, or if it has no
    window for a longer clip.
    """
    check_picture(config, image)
    recipe = config.method.sampler()
    if frames is not None:
        check_frames(config, recipe.chunks, frames)
        check_picture_frames(config, frames)
    for folder in {clip.out.parent for clip in clips}:
        folder.mkdir(parents=True, exist_ok=True)  # a refusal here costs no minutes of sampling
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    codec = config.model.encoders.load_codec().to(device)
    shape = codec.latent_shape(config.data.frames, config.data.height, config.data.width)
    conditions = _conditions(config, [clip.prompt for clip in clips], image, shape, device)
    denoise = denoiser(config, Candidate(STUDENT, recipe, checkpoint), device)
    for (_, seed, out), (cond, uncond) in zip(clips, conditions, strict=True):
        if frames is None:
            latents = make_latents(denoise, recipe, cond, uncond, 0, seed, tensor_shape(shape))
            check_finite(latents, f"latents of {checkpoint.name}", 0)
            video = enlarge(frames_of(codec, picture(latents, shape), checkpoint.name)[0])
            write_clip(out, video, config.data.fps, sound=_track(config, latents, shape, device))
        else:
            assert recipe.chunks is not None
            lengths = enough_chunks(codec, frames, recipe.chunks)
            noise = ChunkNoise(seed, shape, device)
            latent_chunks = sample_chunks(denoise, recipe, lengths, cond, uncond, noise)
            write_chunks(out, pixel_chunks(codec, latent_chunks, frames, checkpoint.name), config.data.fps)
        yield out


def check_picture(config: RunConfig, image: Path | None) -> None:
    """ConfigError if the network begins from a picture and ``image`` is None, or if it does not and ``image`` is
    given."""
    from_image = bool(of_clips(config.model.encoders.fields))
    if from_image != (image is not None):
        remedy = "give --image PICTURE" if from_image else "leave --image out"
        raise ConfigError(
            f"{config.model.pipeline.where}: this pipeline begins from {'a picture' if from_image else 'text'}; "
            f"{remedy}"
        )


Conditions = tuple[dict[str, Tensor], dict[str, Tensor]]
"""(cond, uncond) of one sample."""


def _conditions(
    config: RunConfig, prompts: Sequence[str], image: Path | None, shape: Latent, device: torch.device
) -> list[Conditions]:
    """The conditions of each prompt; ConfigError for a picture that cannot be read."""
    encoders = config.model.encoders
    texts = dict.fromkeys([*prompts, config.data.negative_prompt])
    rows = dict(zip(texts, encoders.text_encoder().encode(list(texts)), strict=True))
    seen: Row = {}
    if image is not None:
        size = config.data.frames, config.data.height, config.data.width
        try:
            seen = picture_rows(encoders, [image], size)[0]
        except BadClip as bad:
            raise ConfigError(f"--image {bad}") from None

    def of(prompt: str) -> Conditions:
        row = {**rows[prompt], **seen}
        cond = {name: value.to(device) for name, value in collate([row], encoders.fields, shape).items()}
        return cond, unconditional(rows[config.data.negative_prompt], cond, encoders.fields)

    return [of(prompt) for prompt in prompts]


def _track(config: RunConfig, latents: Tensor, shape: Latent, device: torch.device) -> Track | None:
    """Decode the sound of the first of the packed ``latents``; None where the family has no sound."""
    of = config.model.pipeline.of.sound
    if of is None:
        return None
    decoder = of.decoder(config.model.path).to(device)
    return Track(decoder.decode(sound(latents, shape))[0].cpu().numpy(), decoder.rate)


def check_frames(config: RunConfig, chunks: Chunks | None, frames: int) -> None:
    """ConfigError where the student cannot make ``frames`` frames."""
    if chunks is None:
        raise ConfigError(
            f"--frames {frames}: the student of method {config.method.name!r} makes whole clips; remove --frames, or "
            "set data.frames"
        )
    if frames < 1:
        raise ConfigError(f"--frames {frames}: use 1 or more")
    if chunks.window is None and frames > config.data.frames:
        raise ConfigError(
            f"--frames {frames}: the student was trained on {config.data.frames} frames and has no window, so it "
            "would see more frames than in training; give method.window, best already in training"
        )


def check_picture_frames(config: RunConfig, frames: int) -> None:
    """ConfigError if the condition of a picture has the length of training's clips and is shorter than ``frames``."""
    fields = of_clips(config.model.encoders.fields)
    if frames > config.data.frames and (long := [name for name, field in fields.items() if "t" in field.shape]):
        raise ConfigError(
            f"--frames {frames}: {config.model.pipeline.where} reads its picture beside each frame ({long[0]}), for "
            f"data.frames = {config.data.frames} frames; use {config.data.frames} or fewer, or a student of Wan 2.2 "
            "5B, whose picture is the first frame"
        )


def enough_chunks(codec: Codec, frames: int, chunks: Chunks) -> tuple[int, ...]:
    """Lengths in latent frames of the fewest chunks with at least ``frames`` frames."""
    per_latent = codec.stride[0]
    # A codec makes k * stride + 1 frames, or fewer; the surplus is cut off.
    latent = -(-(frames - 1) // per_latent) + 1 if frames > 1 else 1
    whole = longest(latent, chunks)
    return chunk_lengths(whole if whole >= latent else longest(latent + chunks.frames, chunks), chunks)


class ChunkNoise:
    """Noise of a clip of any length by chunks: each (step i, ``frames``) has its own draw; i = -1 is the start."""

    def __init__(self, seed: int, shape: Latent, device: torch.device) -> None:
        self.rng, self.ids = StatelessRng(seed), torch.zeros(1, dtype=torch.int64, device=device)
        self.channels, _, *self.size = shape

    def __call__(self, i: int, where: slice) -> Tensor:
        shape = (self.channels, where.stop - where.start, *self.size)
        return self.rng.noise(f"sample/{i}/frame{where.start}", self.ids, shape)


def pixel_chunks(codec: Codec, latents: Iterable[Tensor], frames: int, of: str) -> Iterator[np.ndarray]:
    """Yield uint8 [t, H, W, 3] of each chunk of ``latents``, ``frames`` in all; NotFinite at the first that is not
    finite."""

    def checked() -> Iterator[Tensor]:
        for number, chunk in enumerate(latents):
            check_finite(chunk, f"latents of {of}, chunk {number}", 0)
            yield chunk

    remaining = frames
    for pixels in codec.decode_chunks(checked()):
        check_finite(pixels, f"decoded pixels of {of}, frame {frames - remaining} and on", 0)
        video = to_frames(pixels)[0][:remaining]
        remaining -= len(video)
        yield enlarge(video)
