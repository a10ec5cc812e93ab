"""Make the fixed parts of a tiny Wan for the moving digits: a teacher without its training.

    python examples/digits_base.py data/digits examples/digits_teacher

Writes a diffusers pipeline folder: ``vae/`` (a PatchPCA fitted on the clips), ``tokenizer/`` and ``text_encoder/``
(words of the captions, a random frozen UMT5), ``scheduler/``, ``transformer/`` (a random Wan of 0.5 M parameters, to be
trained) and ``metric/`` (a classifier of digit and direction, checked on held-out images). ``--parts`` rewrites some of
them and keeps the rest, for example a trained transformer. diffusers loads the folder with
``WanPipeline.from_pretrained(folder, vae=None)``: diffusers has no class PatchPCA.
"""

from __future__ import annotations

import argparse
import json
import time
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from moving_digits import DIGITS, DIRECTIONS, FRAMES, SIZE
from tiny_wan import LATENT_CHANNELS, SPECIAL, fast_tokenizer, make_pipeline, save
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from ray_distill.data.read.clip import Cut
from ray_distill.data.read.transform import resize, to_pixels
from ray_distill.data.read.video import read_clip
from ray_distill.evaluate.metrics import Metric
from ray_distill.models.patch_pca import PatchPCA

PARTS = ("vae", "metric", "pipeline")
MAX_LENGTH = 8
DISTINCT = 1797  # clips behind these repeat an image, and would leak held-out digits into the training set
EPOCHS, BATCH, LR = 20, 32, 5e-3


def read_small(path: Path) -> np.ndarray:
    """Read uint8 [9, 24, 24, 3] after the mp4 round trip that training also sees."""
    return resize(read_clip(str(path), Cut(FRAMES)).frames, SIZE, SIZE)


def fit_metric(
    metric: Metric, clips: np.ndarray, captions: list[str], held_out: np.ndarray, epochs: int = EPOCHS
) -> dict[str, float]:
    """Train on the ``clips``, uint8 [N, T, H, W, 3], that are not ``held_out``, bool [N]; returns each head's accuracy
    on those that are."""
    answers = [metric.answers(caption) for caption in captions]
    labels = {
        head: torch.tensor([words.index(min(answer[head])) for answer in answers])
        for head, words in metric.words.items()
    }
    rows = torch.from_numpy(np.flatnonzero(~held_out))
    steps = epochs * (len(rows) // BATCH)
    optimizer = torch.optim.AdamW(metric.parameters(), LR, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    for _ in range(epochs):
        for order in torch.randperm(len(rows))[: len(rows) // BATCH * BATCH].split(BATCH):
            picked = rows[order]
            # No augmentation: it would teach the features to ignore blur and contrast, which samplers get wrong.
            logits = metric(to_pixels(clips[picked]))
            loss = sum(cross_entropy(logits[head], labels[head][picked]) for head in labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    metric.eval().requires_grad_(False)
    others = torch.from_numpy(np.flatnonzero(held_out))
    logits = [metric(to_pixels(clips[part])) for part in others.split(BATCH)]
    right = {head: torch.cat([one[head] for one in logits]).argmax(1) == labels[head][others] for head in labels}
    return {head: share.float().mean().item() for head, share in right.items()}


def make_tokenizer(captions: list[str]) -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token per lower-case word, which appends ``</s>`` like T5's."""
    words = sorted({word for caption in captions for word in caption.split()})
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    return fast_tokenizer(tokenizer, MAX_LENGTH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="what examples/moving_digits.py wrote")
    parser.add_argument("folder", type=Path, help="the pipeline folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    args = parser.parse_args()
    start = time.monotonic()

    rows = [json.loads(line) for line in (args.data / "manifest.jsonl").read_text().splitlines()]
    captions = [row["caption"] for row in rows]
    # One thread each: resizing many small frames with several threads in several processes is ten times slower.
    with Pool(initializer=torch.set_num_threads, initargs=(1,)) as pool:
        clips = pool.map(read_small, [args.data / row["video"] for row in rows], chunksize=32)
    frames = np.stack(clips)
    print(f"read {len(rows)} clips: {time.monotonic() - start:.1f} s")

    if "vae" in args.parts:
        pixels = to_pixels(frames)
        codec = PatchPCA.fit(pixels, channels=LATENT_CHANNELS)
        codec.save(args.folder / "vae")
        lost = (codec.decode(codec.encode(pixels)) - pixels).square().sum()
        print(f"vae: {1 - lost / (pixels - pixels.mean()).square().sum():.4f} of the energy kept")
    if "metric" in args.parts:
        distinct = min(DISTINCT, len(frames))
        held_out = np.arange(distinct) >= distinct - max(1, distinct // 10)
        torch.manual_seed(args.seed)
        metric = Metric({"digit": DIGITS, "direction": DIRECTIONS}, (FRAMES, SIZE, SIZE))
        accuracy = fit_metric(metric, frames[:distinct], captions[:distinct], held_out)
        metric.save(args.folder / "metric")
        print("metric, held-out accuracy:", ", ".join(f"{head} {share:.3f}" for head, share in accuracy.items()))
    if "pipeline" in args.parts:
        # No VAE: diffusers has no PatchPCA.
        pipeline = make_pipeline(make_tokenizer(captions), args.seed, vae=None, rope_max_seq_len=32)
        save(pipeline, args.folder)
        parameters = sum(weight.numel() for weight in pipeline.transformer.parameters())
        print(f"pipeline: a random transformer of {parameters:,} parameters")
    print(f"{args.folder}: {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
