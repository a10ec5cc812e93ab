"""Train the teacher of two digits: flow matching of the tiny Wan and of its text encoder, on one CPU core.

    python examples/two_digits_teacher.py data/two_digits examples/two_digits_teacher output/two_digits_teacher

The folder is what examples/two_digits_base.py wrote; the averages of the trained weights replace its transformer and
text encoder when all steps are done. Stop it at any time: the same command goes on from its last checkpoint. The text
encoder is trained with the transformer, or no prompt would say which colour belongs to which digit.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from two_digits import FRAMES
from two_digits_base import MAX_LENGTH, read_clips

from ray_distill.data.read.transform import to_pixels
from ray_distill.methods.flow_matching import FlowMatching
from ray_distill.models import family
from ray_distill.models.codec import load_codec
from ray_distill.models.loading import load_transformer
from ray_distill.models.text import T5Text
from ray_distill.models.wan.text import wan_text
from ray_distill.rng import StatelessRng
from ray_distill.types import STUDENT, Batch

MUON_LR, ADAMW_LR, WARMUP, DECAY, EMA = 3e-3, 2e-3, 100, 0.25, 0.998
SHORT, LONG, SHORT_STEPS = (9, 32), (FRAMES, 16), 1500
"""(frames, batch) of the first ``SHORT_STEPS`` steps and of the others: strokes are cheaper to learn in short clips."""


def clips_of(data: Path, work: Path) -> tuple[np.ndarray, list[str]]:
    """uint8 [N, 33, 48, 48, 3] of all clips, read once into ``work`` and mapped from there, and their captions."""
    path = work / "clips.npy"
    if not path.is_file():
        np.save(work / "clips.tmp.npy", read_clips(data)[0])
        (work / "clips.tmp.npy").replace(path)
    captions = [json.loads(line)["caption"] for line in (data / "manifest.jsonl").read_text().splitlines()]
    clips = np.load(path, mmap_mode="r")
    if len(clips) != len(captions):
        raise ValueError(f"{path} has {len(clips)} clips and the manifest of {data} {len(captions)}: remove {path}")
    return clips, captions


def beginnings(clips: np.ndarray, step: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers [B] of the clips of one step, and the beginning of each, uint8 [B, T, 48, 48, 3]."""
    frames, batch = SHORT if step < SHORT_STEPS else LONG
    rows = np.random.default_rng([seed, step]).integers(len(clips), size=batch)
    return rows, np.stack([clips[row, :frames] for row in rows])


def text_of(encoder: T5Text, tokens: Any, rows: Tensor) -> Tensor:
    """[B, L, D] of tokenized captions, zero behind each caption's last token, with gradient."""
    ids, mask = tokens.input_ids[rows], tokens.attention_mask[rows]
    return torch.where(mask.bool()[..., None], encoder.model(ids, mask).last_hidden_state, 0.0)


def rate(step: int, steps: int) -> float:
    """Warm-up, then constant, then a line to zero over the last quarter."""
    return min((step + 1) / WARMUP, 1.0, (steps - step) / (DECAY * steps))


def optimizers(trained: nn.ModuleDict) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the transformer's blocks, AdamW for everything else."""
    blocks = [p for p in trained["transformer"].blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in blocks}
    rest = [p for p in trained.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(blocks, MUON_LR, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(rest, ADAMW_LR, betas=(0.9, 0.99), weight_decay=0.0)]


def train(data: Path, folder: Path, work: Path, steps: int, seed: int, faster: bool) -> Iterator[tuple[int, float]]:
    """Yields (step, loss); saves a checkpoint each 100 steps and the averages in ``folder`` at the end."""
    clips, captions = clips_of(data, work)
    codec = load_codec(folder / "vae")
    encoder = wan_text(folder, MAX_LENGTH)
    tokens = encoder.tokenizer([*captions, ""], padding="max_length", max_length=MAX_LENGTH, return_tensors="pt")
    trained = nn.ModuleDict({"transformer": load_transformer("wan", folder), "text_encoder": encoder.model})
    trained.requires_grad_(True).train()
    average = {name: value.detach().clone() for name, value in trained.state_dict().items()}
    several, start, checkpoint = optimizers(trained), 0, work / "checkpoint.pt"
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        trained.load_state_dict(saved["trained"])
        average, start = saved["average"], saved["step"]
        for optimizer, state in zip(several, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    if faster:
        trained["transformer"].compile(dynamic=False)
    method, denoiser = FlowMatching(), family("wan").denoiser(trained["transformer"])
    for step in range(start, steps):
        rows, pixels = beginnings(clips, step, seed)
        x_0 = codec.encode(to_pixels(pixels))
        cond = text_of(encoder, tokens, torch.from_numpy(np.append(rows, len(captions))))
        null = cond[-1:].expand(len(rows), -1, -1)
        batch = Batch(torch.arange(len(rows)), tuple(x_0.shape[1:]), {"text": cond[:-1]}, {"text": null}, x_0)
        loss = method.loss({STUDENT: denoiser}, batch, StatelessRng(seed, step), {}).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        for optimizer, peak in zip(several, (MUON_LR, ADAMW_LR), strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate(step, steps)
            optimizer.step()
            optimizer.zero_grad()
        decay = min(EMA, (1 + step) / (10 + step))
        for name, value in trained.state_dict().items():
            average[name].lerp_(value, 1 - decay)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            state = {"trained": trained.state_dict(), "average": average, "step": step + 1}
            torch.save(state | {"optimizers": [o.state_dict() for o in several]}, work / "checkpoint.tmp")
            (work / "checkpoint.tmp").replace(checkpoint)
        yield step, loss.item()
    trained.load_state_dict(average)
    write(trained, folder)


def write(trained: nn.ModuleDict, folder: Path) -> None:
    """fp16 files, which are read as fp32: half a teacher's bytes."""
    for part, module in trained.half().items():
        module.save_pretrained(folder / part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="what examples/two_digits.py wrote")
    parser.add_argument("folder", type=Path, help="what examples/two_digits_base.py wrote")
    parser.add_argument("work", type=Path, help="clips, checkpoint and losses")
    parser.add_argument("--steps", type=int, default=9600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="1.4 times as fast, where there is a C++ compiler")
    args = parser.parse_args()
    torch.set_num_threads(1)  # two threads on so small matrices wait for one another
    args.work.mkdir(parents=True, exist_ok=True)
    start, losses = time.monotonic(), []
    for step, loss in train(args.data, args.folder, args.work, args.steps, args.seed, args.compile):
        losses.append(loss)
        if (step + 1) % 50 == 0:
            row = {"step": step + 1, "loss": float(np.mean(losses[-50:])), "seconds": time.monotonic() - start}
            with (args.work / "losses.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)


if __name__ == "__main__":
    main()
