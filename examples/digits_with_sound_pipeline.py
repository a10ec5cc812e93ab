"""Complete the teacher of the digits with sound to a folder that `ray-distill train` takes.

    python examples/digits_with_sound_pipeline.py examples/digits_with_sound_teacher output/sound_toy/pipeline

Adds LTX-2's VAEs and its vocoder with random weights. A run from prompts alone reads the shape of its latents from
them, and nothing else; docs/sound_toy.py decodes by the linear codecs of the teacher's folder.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import tiny_ltx2
import torch
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from digits_with_sound import LATENT
from digits_with_sound_teacher import CODECS


def complete(teacher: Path, folder: Path, seed: int = 0) -> None:
    """Copy the pipeline of ``teacher`` to ``folder``, and add ``CODECS``."""
    shutil.copytree(teacher, folder, dirs_exist_ok=True)
    torch.manual_seed(seed)
    vocoder = LTX2Vocoder(hidden_channels=32, resnet_kernel_sizes=[3], resnet_dilations=[[1, 3]])
    for name, part in zip(
        CODECS, (tiny_ltx2.make_vae(LATENT[0]), tiny_ltx2.make_audio_vae(LATENT[0]), vocoder), strict=True
    ):
        part.save_pretrained(folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path, help="what examples/digits_with_sound_teacher.py wrote")
    parser.add_argument("folder", type=Path, help="the pipeline folder to write")
    args = parser.parse_args()
    complete(args.teacher, args.folder)


if __name__ == "__main__":
    main()
