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
from safetensors.torch import load_file
from torch import Tensor

from ray_distill.data.encoders import Encoders
from ray_distill.data.pictures import picture_rows
from ray_distill.diffusion.samplers import by_level, sample
from ray_distill.export.diffusers import RECIPE
from ray_distill.models import family_of
from ray_distill.models.conditions import batched, unconditional
from ray_distill.models.pipeline import Pipeline
from ray_distill.models.spec import of_captions
from ray_distill.types import Chunks, Denoiser, Experts, Sampler, Window


def verify(folder: Path, prompt: str, seed: int = 0, timeout_s: float = 600.0, image: Path | None = None) -> float:
    """The largest absolute difference between the latents of ``sample.py`` in a fresh process and our own sampler's.

    Both run on the CPU in fp32 and draw from torch's global generator in the same order. RuntimeError where
    ``sample.py`` fails, ``subprocess.TimeoutExpired`` where it takes longer than ``timeout_s``. A student from images
    begins from ``image``, else from a picture of random colours.
    """
    folder = Path(folder)
    if not json.loads((folder / RECIPE).read_text()).get("from_image"):
        theirs, ours = _by_script(folder, [prompt], seed, timeout_s), _by_sampler(folder, prompt, seed)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            picture = image or _random_picture(Path(scratch) / "picture.png")
            theirs = _by_script(folder, [prompt, str(picture)], seed, timeout_s)
            ours = _by_sampler(folder, prompt, seed, picture)
    if theirs.shape != ours.shape:
        raise RuntimeError(f"{folder}: sample.py makes latents {list(theirs.shape)}, our sampler {list(ours.shape)}")
    return (theirs - ours).abs().max().item()


def _random_picture(path: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(path)
    return path


def _by_script(folder: Path, asked: Sequence[str], seed: int, timeout_s: float) -> Tensor:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "latents.safetensors"
        done = subprocess.run(
            [sys.executable, str(folder / "sample.py"), *asked, str(out), str(seed)],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if done.returncode:
            raise RuntimeError(f"{folder}/sample.py failed ({done.returncode}): {done.stderr.strip()[-2000:]}")
        return load_file(out)["latents"]


def _chunks(given: Mapping[str, Any]) -> Chunks:
    window = Window(**given["window"]) if given.get("window") else None
    return Chunks(**{**given, "window": window, "first_timesteps": tuple(given.get("first_timesteps", ()))})


def _by_sampler(folder: Path, prompt: str, seed: int, picture: Path | None = None) -> Tensor:
    recipe = json.loads((folder / RECIPE).read_text())
    kind = json.loads((folder / "transformer/config.json").read_text())["_class_name"]
    of = family_of(kind)
    assert of is not None, f"{folder}: an export of no family: {kind}"
    base = folder / recipe["base"]
    if not base.is_dir():
        parts = [*of.text_parts, *(["vae", "image_encoder", "image_processor"] if picture else [])]
        base = Path(snapshot_download(recipe["base"], allow_patterns=[f"{part}/*" for part in (*parts, "*.json")]))
    chunks = _chunks(recipe["chunks"]) if recipe.get("chunks") else None
    sampler = Sampler(tuple(recipe["timesteps"]), recipe["kind"], recipe["guidance_scale"], chunks)
    names = ["transformer", "transformer_2"] if recipe.get("boundary_ratio") else ["transformer"]
    tokens = recipe["max_sequence_length"]
    asked, negative = of.text(base, tokens, "float32").encode([prompt, recipe["negative_prompt"]])
    fields = of_captions(Pipeline(of.name, folder, "export").fields(tokens))
    if picture is not None:
        models = Encoders(Pipeline(of.name, base, "base", from_image=True), tokens)
        fields, size = models.fields, (recipe["frames"], recipe["height"], recipe["width"])
        asked = {**asked, **picture_rows(models, [picture], size)[0]}
    text = batched([asked], fields, recipe["latent_shape"])
    empty = unconditional(negative, text, fields)
    networks = {n: of.denoiser(of.transformer.from_pretrained(folder / n, dtype=torch.float32)) for n in names}
    denoise: Denoiser = networks["transformer"]
    if len(names) == 2:
        denoise = by_level(Experts("transformer", "transformer_2", 1000 * recipe["boundary_ratio"]), networks)
    shape = (1, *recipe["latent_shape"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x_T = of.start(shape)
        return sample(denoise, sampler, x_T, text, empty, noise=lambda _: of.noise(shape))
