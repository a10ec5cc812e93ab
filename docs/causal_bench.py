"""The causal rows of docs/hard_bench.md: the causal chain beside the warm start on a bidirectional teacher.

    python docs/causal_bench.py [key=value ...] [--seeds 0 1 2]

Both students take as many forwards; the bidirectional teacher and the chain's first step are one run each for all
seeds. Each student also makes clips of four times its training's length, and the bench's classifier reads the digits
in each window of training's length. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from students import ROOT, train

from ray_distill.config import RunConfig, load_config
from ray_distill.data.read.transform import to_frames
from ray_distill.diffusion.samplers import sample_chunks
from ray_distill.evaluate.latents import denoiser
from ray_distill.evaluate.metrics import Metric
from ray_distill.evaluate.sample import ChunkNoise, enough_chunks
from ray_distill.evaluate.samples import Candidate
from ray_distill.models.conditions import collate, unconditional
from ray_distill.train.driver.fit import newest
from ray_distill.types import STUDENT

CONFIGS, OUT = "configs/two_digits_causal", "output/causal_bench"
WINDOWS, PERIOD, SEED, CLIPS = 4, 32, 1, 2
"""Windows begin at whole periods of the clips, so that drawn clips show the same in each; each prompt has two clips."""
HEAD = "| student | FD of each seed | accuracy | first window | second | third | last |\n|---|---|---|---|---|---|---|"
SELF_FORCING = f"{CONFIGS}/self_forcing.yaml"
WARM_START = [
    *("method.name=self_forcing_warm_start", "method.window=null", "method.sink=0"),
    *("method.rollout_frames=null", "method.rollout_overlap=null"),
    *("method.solver_steps=16", "method.solver_shift=3", "method.solver_guidance=1.5"),
    # 98 x (16 guided steps + 1) forwards of 40 latent frames, where the chain has 900 x 2 and 200 x 8 of 36.
    *("method.warm_start_steps=98", "train.steps=598", f"roles.student.path={OUT}/teacher/export"),
]
"""self_forcing.yaml with the former start: a chunk sees all frames before it, and rollouts are as long as the clips."""
SCORES = [f"roles.{role}.path={OUT}/teacher/export" for role in ("teacher", "fake_score")]
STUDENTS: dict[str, tuple[str, list[str]]] = {
    "chain": (SELF_FORCING, [f"roles.student.path={OUT}/consistency_seed{{seed}}/export", *SCORES]),
    "warm_start": (SELF_FORCING, [*WARM_START, *SCORES]),
}


def start(step: str, name: str, *overrides: str) -> None:
    """Train an earlier step of the chain, unless its export is there."""
    if not (Path(OUT) / name / "export").is_dir():
        given = [f"output_dir={OUT}", f"name={name}", *overrides]
        command = [sys.executable, ROOT / "train.py", ROOT / CONFIGS / f"{step}.yaml", *given]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@torch.no_grad()
def long_videos(config: RunConfig, prompts: Sequence[str], frames: int) -> np.ndarray:
    """uint8 [N, frames, H, W, 3] of ``prompts`` by the run's student, chunk by chunk. ``ray-distill sample`` refuses
    more frames than in training where the student has no window; the bench shows what they would be."""
    encoders, recipe = config.model.encoders, config.method.sampler()
    codec, fields = encoders.load_codec(), encoders.fields
    shape = codec.latent_shape(config.data.frames, config.data.height, config.data.width)
    *rows, negative = encoders.text_encoder().encode([*prompts, config.data.negative_prompt])
    cond = collate(rows, fields, shape)
    noise = ChunkNoise(SEED, shape, torch.device("cpu"))
    noise.ids = torch.arange(len(prompts))
    see = denoiser(config, Candidate(STUDENT, recipe, newest(config).folder), torch.device("cpu"))
    assert recipe.chunks is not None
    lengths = enough_chunks(codec, frames, recipe.chunks)
    latents = sample_chunks(see, recipe, lengths, cond, unconditional(negative, cond, fields), noise)
    return to_frames(torch.cat([*codec.decode_chunks(latents)], dim=2)[:, :, :frames])


def digits_read(metric: Metric, videos: np.ndarray, prompts: Sequence[str]) -> list[float]:
    """The share of the prompts' digits that ``metric`` reads in each window of ``videos``."""
    heads = [(number, head) for number, head in enumerate(metric.words) if head.startswith("digit")]
    shares = []
    for number in range(WINDOWS):
        window = videos[:, number * PERIOD : (number + 1) * PERIOD + 1]
        read = zip(metric.classify(window), map(metric.answers, prompts), strict=True)
        shares.append(mean(words[number] in answers[head] for words, answers in read for number, head in heads))
    return shares


def row(label: str, reports: Sequence[dict[str, Any]], shares: Sequence[Sequence[float]]) -> str:
    """One student over its training seeds."""
    distances = ", ".join(f"{report['student']['frechet']:.0f}" for report in reports)
    accuracy = mean(report["student"]["accuracy"] for report in reports)
    windows = " | ".join(f"{mean(of):.3f}" for of in zip(*shares, strict=True))
    return f"| `{label}` | {distances} | {accuracy:.3f} | {windows} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    start("teacher", "teacher", *args.overrides)
    start("teacher_forcing", "forcing", *args.overrides)
    paths = [f"roles.{role}.path={OUT}/forcing/export" for role in ("student", "teacher")]
    for seed in args.seeds:
        start("causal_consistency", f"consistency_seed{seed}", f"seed={seed}", *paths, *args.overrides)
    metric = Metric.load(ROOT / "examples/two_digits_teacher/metric")
    prompts = (ROOT / "examples/two_digits_prompts.txt").read_text().splitlines() * CLIPS
    print(HEAD)
    for name in STUDENTS:
        reports, shares = [], []
        for seed in args.seeds:
            reports.append(train(name, seed, args.overrides, STUDENTS, OUT))
            config, given = STUDENTS[name]
            own = [each.replace("{seed}", str(seed)) for each in given]
            run = [f"output_dir={OUT}", f"name={name}_seed{seed}", f"seed={seed}", *own, *args.overrides]
            videos = long_videos(load_config(ROOT / config, run).config, prompts, WINDOWS * PERIOD + 1)
            shares.append(digits_read(metric, videos, prompts))
        print(row(name, reports, shares), flush=True)


if __name__ == "__main__":
    main()
