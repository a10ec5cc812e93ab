"""Verify that diffusers alone reproduces our sampler's latents of an exported student."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from ray_distill.data.encoders import Encoders
from ray_distill.data.pictures import picture_rows
from ray_distill.diffusion.samplers import by_level, sample
from ray_distill.export.base import class_of
from ray_distill.export.checks import RECIPE
from ray_distill.models import family_of
from ray_distill.models.conditions import collate, unconditional
from ray_distill.models.pipeline import Pipeline
from ray_distill.models.spec import Family, Fields, Row, of_captions, of_clips
from ray_distill.types import Chunks, Denoiser, Experts, Sampler, Window


def verify(folder: Path, prompt: str, seed: int = 0, timeout_s: float = 600.0, image: Path | None = None) -> float:
    """The largest absolute difference between the latents of ``sample.py`` in a fresh process and our own sampler's.

    Both run on the CPU in fp32, and draw from torch's global generator in the same order. A student from images begins
    from ``image``, else from a picture of random colours. RuntimeError where ``sample.py`` fails,
    ``subprocess.TimeoutExpired`` where it takes longer than ``timeout_s``.
    """
    folder = Path(folder)
    recipe = json.loads((folder / RECIPE).read_text())
    if not recipe.get("from_image"):
        theirs, ours = _by_script(folder, [prompt], seed, timeout_s), _by_sampler(folder, recipe, prompt, seed)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            picture = image or _random_picture(Path(scratch) / "picture.png")
            base = _base(folder, recipe, ("vae", "image_encoder", "image_processor"))
            pipeline = Pipeline(_family(folder).name, base, "base", from_image=True)
            models = Encoders(pipeline, 1, vae_tiling=recipe.get("vae_tiling", False))
            size = recipe["frames"], recipe["height"], recipe["width"]
            (row,) = picture_rows(models, [picture], size)
            if class_of(pipeline.index, "vae") is None:  # no class of diffusers encodes the picture
                picture = Path(scratch) / "encoded.safetensors"
                save_file(dict(row), picture)
            theirs = _by_script(folder, [prompt, str(picture)], seed, timeout_s)
            ours = _by_sampler(folder, recipe, prompt, seed, (row, of_clips(models.fields)))
    if theirs.shape != ours.shape:
        raise RuntimeError(f"{folder}: sample.py makes latents {list(theirs.shape)}, our sampler {list(ours.shape)}")
    return (theirs - ours).abs().max().item()


def _random_picture(path: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(path)
    return path


def _by_script(folder: Path, arguments: Sequence[str], seed: int, timeout_s: float) -> Tensor:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "latents.safetensors"
        process = subprocess.run(
            [sys.executable, str(folder / "sample.py"), *arguments, str(out), str(seed)],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if process.returncode:
            raise RuntimeError(f"{folder}/sample.py failed ({process.returncode}): {process.stderr.strip()[-2000:]}")
        return load_file(out)["latents"]


def _chunks(chunks: Mapping[str, Any]) -> Chunks:
    window = Window(**chunks["window"]) if chunks.get("window") else None
    return Chunks(**{**chunks, "window": window, "first_timesteps": tuple(chunks.get("first_timesteps", ()))})


def _family(folder: Path) -> Family:
    kind = json.loads((folder / "transformer/config.json").read_text())["_class_name"]
    of = family_of(kind)
    assert of is not None, f"{folder}: an export of no family: {kind}"
    return of


def _base(folder: Path, recipe: Mapping[str, Any], parts: Sequence[str] = ()) -> Path:
    """The folder with text encoder, tokenizer and further ``parts``, downloaded from the hub where the recipe names no
    folder."""
    base: Path = folder / recipe["base"]
    if base.is_dir():
        return base
    patterns = [*(f"{part}/*" for part in (*_family(folder).text_parts, *parts)), "*.json"]
    return Path(snapshot_download(recipe["base"], allow_patterns=patterns))


def _by_sampler(
    folder: Path, recipe: Mapping[str, Any], prompt: str, seed: int, image: tuple[Row, Fields] | None = None
) -> Tensor:
    """Latents of our own sampler by the export's recipe. ``image`` is (conditions of a clip that begins from an image,
    their fields)."""
    chunks = _chunks(recipe["chunks"]) if recipe.get("chunks") else None
    scale, audio = recipe["guidance_scale"], recipe.get("audio_guidance_scale")
    sampler = Sampler(tuple(recipe["timesteps"]), recipe["kind"], scale, chunks, audio_guidance_scale=audio)
    names = ["transformer", "transformer_2"] if recipe.get("boundary_ratio") else ["transformer"]
    of, tokens = _family(folder), recipe["max_sequence_length"]
    conditions, negative = of.text(_base(folder, recipe), tokens, "float32").encode([prompt, recipe["negative_prompt"]])
    fields = of_captions(Pipeline(of.name, folder, "export").fields(tokens))
    if image is not None:
        row, image_fields = image
        conditions, fields = {**conditions, **row}, {**fields, **image_fields}
    text = collate([conditions], fields, recipe["latent_shape"])
    empty = unconditional(negative, text, fields)
    networks = {n: of.denoiser(of.transformer.from_pretrained(folder / n, dtype=torch.float32)) for n in names}
    denoise: Denoiser = networks["transformer"]
    if len(names) == 2:
        denoise = by_level(Experts("transformer", "transformer_2", 1000 * recipe["boundary_ratio"]), networks)
    shape, fresh = (1, *recipe["latent_shape"]), (image and of.image_noise) or of.noise
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x_T = of.start(shape)
        return sample(denoise, sampler, x_T, text, empty, noise=lambda _: fresh(shape))
