"""Train the teacher of the digits with sound: flow matching of a tiny LTX-2, on one CPU core.

    python examples/digits_with_sound_teacher.py examples/digits_with_sound_teacher output/sound_toy

Writes the folder: two linear codecs, and LTX-2's pipeline with the average of the trained transformer in fp16 and a
random text encoder. Its VAEs and its vocoder are left out, which digits_with_sound_pipeline.py adds. Stop it at any
time: the same command goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tiny_ltx2
import torch
from diffusers import LTX2VideoTransformer3DModel
from digits_base import make_tokenizer
from digits_with_sound import LATENT, Codecs, make
from moving_digits import DIGITS
from tiny_wan import save
from torch import Tensor, nn

from ray_distill.methods.flow_matching import FlowMatching
from ray_distill.models.ltx2.network import LTX2Denoiser
from ray_distill.models.ltx2.text import LTX2Text
from ray_distill.models.packed import modalities, tensor_shape, with_layout
from ray_distill.rng import StatelessRng
from ray_distill.types import STUDENT, Batch

CLIPS, BATCH, EMA = 4000, 32, 0.995
PROMPTS = tuple(f"{'an' if digit == 'eight' else 'a'} {digit}" for digit in DIGITS)
TOKENS = 8
CODECS = ("vae", "audio_vae", "vocoder")
"""Parts of the pipeline that have no use here, and would be ten times as large as the rest."""
MUON_LR, ADAMW_LR, WARMUP, DECAY = 3e-3, 2e-3, 100, 0.3
METHOD = FlowMatching(shift=2.0, prompt_dropout=0.0, sampling_steps=32, sampling_guidance=1.0)


def make_transformer(seed: int = 0) -> LTX2VideoTransformer3DModel:
    """Three blocks, 64 wide for the picture and 32 for sound; positions are scaled to a clip's own size."""
    torch.manual_seed(seed)
    channels = LATENT[0]
    return LTX2VideoTransformer3DModel(
        in_channels=channels,
        out_channels=channels,
        num_attention_heads=4,
        attention_head_dim=16,
        cross_attention_dim=64,
        audio_in_channels=channels,
        audio_out_channels=channels,
        audio_num_attention_heads=4,
        audio_attention_head_dim=8,
        audio_cross_attention_dim=32,
        num_layers=3,
        caption_channels=tiny_ltx2.WIDTH,
        rope_type="split",
        pos_embed_max_pos=1,
        audio_pos_embed_max_pos=1,
        base_height=128,
        base_width=128,
    )


def save_pipeline(folder: Path, network: LTX2VideoTransformer3DModel, seed: int = 0) -> None:
    """Write LTX-2's pipeline around ``network``, without ``CODECS``; its text encoder knows one token a word."""
    pipeline = tiny_ltx2.make_pipeline(seed)
    tokenizer = make_tokenizer(list(PROMPTS))
    torch.manual_seed(seed)
    text = tiny_ltx2.make_text_encoder(tokenizer)
    pipeline.register_modules(tokenizer=tokenizer, text_encoder=text, transformer=network)
    save(pipeline, folder)
    for part in CODECS:
        shutil.rmtree(folder / part)


def captions(folder: Path) -> dict[str, Tensor]:
    """The fields of ``PROMPTS`` [10, 8, D], by the pipeline's text encoder, as a cache stores them."""
    rows = LTX2Text(folder, TOKENS).encode(PROMPTS)
    return {name: torch.stack([row[name] for row in rows]).bfloat16().float() for name in rows[0]}


def batch_of(table: dict[str, Tensor], digits: Tensor, step: int, x_0: Tensor | None = None) -> Batch:
    """A micro-batch of the prompts of ``digits`` [B], from the ``table`` of their :func:`captions`; without guidance
    nothing reads ``uncond``."""
    ids = step * len(digits) + torch.arange(len(digits))
    cond = with_layout({name: rows[digits] for name, rows in table.items()}, LATENT)
    return Batch(ids, tensor_shape(LATENT), cond, cond, x_0, modalities=modalities(LATENT))


def rate(step: int, steps: int) -> float:
    """Warm-up, then constant, then a line to zero."""
    return min((step + 1) / WARMUP, 1.0, (steps - step) / (DECAY * steps))


def optimizers(network: LTX2VideoTransformer3DModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else."""
    blocks = [p for name, p in network.transformer_blocks.named_parameters() if p.ndim == 2 and "table" not in name]
    chosen = {id(p) for p in blocks}
    rest = [p for p in network.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(blocks, MUON_LR, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(rest, ADAMW_LR, betas=(0.9, 0.99), weight_decay=0.0)]


def train(folder: Path, work: Path, steps: int, seed: int) -> Iterator[tuple[int, float]]:
    """Yield (step, loss); save a checkpoint every 250 steps, and the average in ``folder`` at the end."""
    clips, _ = make(CLIPS, seed)
    codecs = Codecs.fit(clips)
    codecs.save(folder)
    latents = codecs.encode(clips)
    network = make_transformer(seed).train()
    save_pipeline(folder, network, seed)
    table = captions(folder)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    several, start, checkpoint = optimizers(network), 0, work / "checkpoint.pt"
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(saved["network"])
        average, start = saved["average"], saved["step"]
        for optimizer, state in zip(several, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    denoiser = LTX2Denoiser(network)
    for step in range(start, steps):
        rows = torch.from_numpy(np.random.default_rng([seed, step]).integers(CLIPS, size=BATCH))
        batch = batch_of(table, clips.digits[rows], step, latents[rows])
        loss = METHOD.loss({STUDENT: denoiser}, batch, StatelessRng(seed, step), {}).loss
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer, peak in zip(several, (MUON_LR, ADAMW_LR), strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate(step, steps)
            optimizer.step()
            optimizer.zero_grad()
        decay = min(EMA, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            average[name].lerp_(value, 1 - decay)
        if (step + 1) % 250 == 0 or step + 1 == steps:
            state = {"network": network.state_dict(), "average": average, "step": step + 1}
            torch.save(state | {"optimizers": [o.state_dict() for o in several]}, work / "checkpoint.tmp")
            (work / "checkpoint.tmp").replace(checkpoint)
        yield step, loss.item()
    network.load_state_dict(average)
    network.half().save_pretrained(folder / "transformer")  # read as fp32: half the bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the teacher's folder")
    parser.add_argument("work", type=Path, help="checkpoint and losses")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # two threads on so small matrices wait for one another
    args.work.mkdir(parents=True, exist_ok=True)
    start, cpu, losses = time.monotonic(), time.process_time(), []
    for step, loss in train(args.folder, args.work, args.steps, args.seed):
        losses.append(loss)
        if (step + 1) % 50 == 0:
            row = {"step": step + 1, "loss": float(np.mean(losses[-50:])), "seconds": time.monotonic() - start}
            row["cpu_seconds"] = time.process_time() - cpu
            with (args.work / "losses.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)


if __name__ == "__main__":
    main()
