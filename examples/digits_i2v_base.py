"""Make the fixed parts of a tiny Wan 2.2 5B that moves a digit on from its picture: a teacher without its training.

    python examples/digits_i2v_base.py data/digits examples/digits_i2v_teacher [--parts data] [--trained FOLDER]

``data/digits`` comes from examples/moving_digits.py. The part ``data`` adds ``i2v.jsonl``, the clips for training, and
``prompts.json``, ``pictures.json`` and ``pictures/``, the first frames of 400 clips whose images of digits are in no
training clip. ``vae`` (a CausalPatchPCA, whose first latent frame is the first picture alone) and ``pipeline``
(tokenizer, text encoder, scheduler and a random transformer) go into a diffusers pipeline folder; its metric is the
quick start's. ``--trained`` puts a trained transformer into that folder, in fp16, and writes nothing else.
"""

from __future__ import annotations

import argparse
import json
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from digits_base import DISTINCT, make_tokenizer, read_small
from PIL import Image
from tiny_wan import Kind, make_pipeline, save

from ray_distill.data.read.transform import to_pixels
from ray_distill.models.causal_pca import CausalPatchPCA

PARTS = ("data", "vae", "pipeline")
PATCH, CHANNELS = (4, 4, 4), 16  # a block of the first picture has 16 grey pixels, so the codec keeps all of it
GIVEN = 400


def write_pictures(folder: Path, captions: list[str], clips: np.ndarray) -> None:
    """Write the first frame of each of the ``clips``, uint8 [N, T, H, W, 3], and its caption as a prompt, by number."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    pictures = {f"{number:03d}": f"pictures/{number:03d}.png" for number in range(len(clips))}
    for path, clip in zip(pictures.values(), clips, strict=True):
        Image.fromarray(clip[0]).save(folder / path)
    (folder / "pictures.json").write_text(json.dumps(pictures, indent=1) + "\n")
    (folder / "prompts.json").write_text(json.dumps(dict(zip(pictures, captions, strict=True)), indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="what examples/moving_digits.py wrote")
    parser.add_argument("folder", type=Path, help="the pipeline folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--trained", type=Path, help="a transformer to put into the pipeline folder in fp16")
    args = parser.parse_args()
    if args.trained is not None:
        WanTransformer3DModel.from_pretrained(args.trained).half().save_pretrained(args.folder / "transformer")
        return

    lines = (args.data / "manifest.jsonl").read_text().splitlines(keepends=True)[:DISTINCT]
    rows = [json.loads(line) for line in lines]
    captions = [row["caption"] for row in rows]
    with Pool(initializer=torch.set_num_threads, initargs=(1,)) as pool:
        clips = np.stack(pool.map(read_small, [args.data / row["video"] for row in rows], chunksize=32))
    if "data" in args.parts:
        (args.data / "i2v.jsonl").write_text("".join(lines[:-GIVEN]))
        write_pictures(args.data, captions[-GIVEN:], clips[-GIVEN:])
    if "vae" in args.parts:
        CausalPatchPCA.fit(to_pixels(clips[:-GIVEN]), PATCH, CHANNELS).save(args.folder / "vae")
    if "pipeline" in args.parts:
        # No VAE: diffusers has no CausalPatchPCA.
        kind = Kind(channels=CHANNELS, levels_by_token=True)
        save(make_pipeline(make_tokenizer(captions), args.seed, None, kind, rope_max_seq_len=32), args.folder)
    print(f"{args.folder}: {', '.join(args.parts)}; {len(rows) - GIVEN} clips to train on, {GIVEN} pictures of others")


if __name__ == "__main__":
    main()
