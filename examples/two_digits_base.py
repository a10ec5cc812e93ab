"""The fixed parts of a tiny Wan around two digits: everything of a teacher but its training.

    python examples/two_digits_base.py data/two_digits examples/two_digits_teacher

Writes a diffusers pipeline folder: ``vae/`` (a CausalPatchPCA fitted on the clips: 33 frames -> 5 latent frames, the
first of them one picture), ``tokenizer/``, ``text_encoder/`` and ``transformer/`` (random; two_digits_teacher.py trains
the last two), ``scheduler/``, and ``metric/`` (a classifier of both colours and both digits, checked on clips that
training has not shown). ``--parts`` rewrites some of them and leaves the rest as they are.
"""

from __future__ import annotations

import argparse
import json
import time
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from digits_base import fit_metric, make_tokenizer
from moving_digits import DIGITS
from tiny_wan import TEXT_DIM, make_pipeline, save
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel
from two_digits import COOL, FRAMES, SIZE, WARM, is_held_out

from ray_distill.data.read.clip import Cut
from ray_distill.data.read.transform import resize, to_pixels
from ray_distill.data.read.video import read_clip
from ray_distill.evaluate.metrics import Metric
from ray_distill.models.causal_pca import CausalPatchPCA

PARTS = ("vae", "metric", "pipeline")
PATCH, CHANNELS, WHITENING, MAX_LENGTH = (8, 4, 4), 24, 0.5, 16
HEADS = {"colour_1": tuple(WARM), "digit_1": DIGITS, "colour_2": tuple(COOL), "digit_2": DIGITS}
METRIC: dict[str, Any] = {"channels": (16, 32, 128), "window": 6, "pooling": "max"}
"""The window sees a whole digit of 24 pixels; averages over all places would not say which digit it is."""
METRIC_EPOCHS = 6
FITTED = 300  # clips of the codec: 170,000 blocks of 384 numbers say enough of their covariance


def read_small(path: Path) -> np.ndarray:
    """uint8 [33, 48, 48, 3], after the mp4 round trip that training sees too."""
    return resize(read_clip(str(path), Cut(FRAMES)).frames, SIZE, SIZE)


def read_clips(data: Path, count: int | None = None) -> tuple[np.ndarray, list[str]]:
    """The first ``count`` clips, uint8 [N, 33, 48, 48, 3], and their captions."""
    rows = [json.loads(line) for line in (data / "manifest.jsonl").read_text().splitlines()][:count]
    # One thread each: resizing many small frames with several threads in several processes is ten times slower.
    with Pool(initializer=torch.set_num_threads, initargs=(1,)) as pool:
        clips = pool.map(read_small, [data / row["video"] for row in rows], chunksize=32)
    return np.stack(clips), [row["caption"] for row in rows]


def energy_kept(codec: CausalPatchPCA, pixels: Tensor) -> float:
    """The share of the variance about each colour's mean that encoding and decoding keeps."""
    lost = (codec.decode(codec.encode(pixels)) - pixels).square().sum()
    return 1 - (lost / (pixels - pixels.mean((0, 2, 3, 4), keepdim=True)).square().sum()).item()


def text_encoder(vocabulary: int, pad: int, end: int, seed: int) -> UMT5EncoderModel:
    """Two layers, so that a colour's embedding can tell which digit it stands before."""
    torch.manual_seed(seed)
    sizes = {"d_model": TEXT_DIM, "d_kv": 32, "d_ff": 128, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
    config = UMT5Config(vocab_size=vocabulary, pad_token_id=pad, eos_token_id=end, **sizes)
    return UMT5EncoderModel(config).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="what examples/two_digits.py wrote")
    parser.add_argument("folder", type=Path, help="the pipeline folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    args = parser.parse_args()
    start = time.monotonic()

    if "vae" in args.parts:
        pixels = to_pixels(read_clips(args.data, FITTED)[0])
        codec = CausalPatchPCA.fit(pixels, PATCH, CHANNELS, WHITENING)
        codec.save(args.folder / "vae")
        print(f"vae: {energy_kept(codec, pixels):.4f} of the energy kept")
    if "metric" in args.parts:
        clips, captions = read_clips(args.data)
        torch.manual_seed(args.seed)
        metric = Metric(HEADS, (FRAMES, SIZE, SIZE), **METRIC)
        held_out = np.array([is_held_out(i) for i in range(len(clips))])
        accuracy = fit_metric(metric, clips, captions, held_out, METRIC_EPOCHS)
        metric.save(args.folder / "metric")
        print("metric, accuracy on clips held out:", ", ".join(f"{head} {a:.3f}" for head, a in accuracy.items()))
    if "pipeline" in args.parts:
        rows = [json.loads(line) for line in (args.data / "manifest.jsonl").read_text().splitlines()]
        tokenizer = make_tokenizer([row["caption"] for row in rows])
        tokenizer.model_max_length = MAX_LENGTH
        sizes = {"in_channels": CHANNELS, "out_channels": CHANNELS, "num_attention_heads": 4, "num_layers": 5}
        # No VAE: CausalPatchPCA is none of diffusers'.
        pipeline = make_pipeline(tokenizer, args.seed, vae=None, rope_max_seq_len=128, ffn_dim=384, **sizes)
        encoder = text_encoder(len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id, args.seed)
        pipeline.register_modules(text_encoder=encoder)
        save(pipeline, args.folder)
        parameters = sum(weight.numel() for weight in pipeline.transformer.parameters())
        print(f"pipeline: a random transformer of {parameters:,} parameters")
    print(f"{args.folder}: {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
