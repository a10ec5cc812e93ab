"""The table of docs/sound_toy.md: students of a tiny LTX-2 of digits with sound, against their teacher.

    python docs/sound_toy.py examples/digits_with_sound_teacher output/sound_toy --export output/*/export
    python docs/sound_toy.py examples/digits_with_sound_teacher output/sound_toy --only common_normaliser

--export measures what `ray-distill train configs/digits_with_sound.yaml` exported, by its own recipe. --only trains
students here, in one process, and keeps them in the second folder: DMD, the adapter of LTX-2 and the samplers are the
product's; Ray, DeepSpeed and the cache have no part in it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import LTX2VideoTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from ray_distill.diffusion.losses import dmd_gradient
from ray_distill.diffusion.samplers import sample
from ray_distill.evaluate.metrics.distribution import frechet_distance, principal
from ray_distill.methods import DMD
from ray_distill.models.ltx2.network import LTX2Denoiser
from ray_distill.rng import StatelessRng
from ray_distill.types import FAKE_SCORE, STUDENT, TEACHER, Batch, Denoiser, Sampler

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from digits_with_sound import Clips, Codecs, heard_direction, make, seen_digit, seen_direction
from digits_with_sound_teacher import BATCH, METHOD, batch_of, captions

COUNT, COMPONENTS, REAL_SEEDS = 960, 32, (101, 102)
Captions = Mapping[str, Tensor]
STUDENT_LR, FAKE_LR, EMA = 3e-4, 2e-3, 0.985
SETTINGS = {"rollout": "ode", "ts_schedule": True, "teacher_guidance": 1.0}
TIMESTEPS = (1000.0, 900.0, 750.0, 500.0)
HEAD = (
    "| sampler | evaluations | FD of the picture | over the teacher's | FD of the sound | over the teacher's "
    "| agreement | over the teacher's | digit | rarest direction |\n|---|---|---|---|---|---|---|---|---|---|"
)


class CommonNormaliser(DMD):
    """DMD with the fault that docs/sound_toy.md plants: one normaliser over picture and sound."""

    def direction(
        self, x: Tensor, mu_fake: Tensor, mu_real: Tensor, sigma: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        return *dmd_gradient(x, mu_fake, mu_real, self.min_norm), {}


STUDENTS: Mapping[str, DMD] = {
    "dmd_4": DMD(TIMESTEPS, **SETTINGS),
    "common_normaliser": CommonNormaliser(TIMESTEPS, **SETTINGS),
}


@dataclass(frozen=True)
class Row:
    """Distances to real clips, and shares of the clips: whose sound names the picture's direction, whose digit is the
    prompt's, and that move in the rarest direction."""

    picture: float
    sound: float
    agreement: float
    digit: float
    rarest: float


def load(folder: Path) -> LTX2VideoTransformer3DModel:
    """The teacher's network in fp32, frozen."""
    network = LTX2VideoTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
    return network.requires_grad_(False)


def train(
    method: DMD, teacher: LTX2VideoTransformer3DModel, table: Captions, path: Path, steps: int, seed: int
) -> None:
    """Write the student's averaged weights to ``path``."""
    networks = {STUDENT: deepcopy(teacher), FAKE_SCORE: deepcopy(teacher), TEACHER: teacher}
    average = deepcopy(teacher.state_dict())
    rates = {STUDENT: (STUDENT_LR, 0.0), FAKE_SCORE: (FAKE_LR, 0.9)}
    optimizers = {
        role: torch.optim.AdamW(networks[role].parameters(), lr, betas=(beta, 0.999), weight_decay=0.01)
        for role, (lr, beta) in rates.items()
    }
    denoisers = {role: LTX2Denoiser(network) for role, network in networks.items()}
    start, cpu = time.monotonic(), time.process_time()
    for step in range(steps):
        digits = (torch.arange(BATCH) + step * BATCH) % 10
        batch, shared = batch_of(table, digits, step), {}
        for update in method.updates(step):
            for role in rates:
                networks[role].requires_grad_(role == update.role)
            terms = update.loss(denoisers, batch, StatelessRng(seed, step), shared)
            terms.loss.backward()
            torch.nn.utils.clip_grad_norm_(networks[update.role].parameters(), 1.0)
            optimizers[update.role].param_groups[0]["lr"] = rates[update.role][0] * (1 - step / steps)
            optimizers[update.role].step()
            optimizers[update.role].zero_grad()
            if update.role == STUDENT:
                for name, value in networks[STUDENT].state_dict().items():
                    average[name].lerp_(value, 1 - EMA)
        if (step + 1) % 50 == 0:
            spent = f"{time.monotonic() - start:.0f} s, {time.process_time() - cpu:.0f} s of a core"
            print(f"{path.stem}: step {step + 1}, loss {terms.loss.item():.3f}, {spent}", file=sys.stderr, flush=True)
    save_file(average, path)


def draw(denoiser: Denoiser, sampler: Sampler, table: Captions, seed: int, codecs: Codecs) -> Clips:
    """``COUNT`` clips, as many of each digit; ``directions`` are those of the sound."""
    digits, parts = torch.arange(COUNT) % 10, []
    for first in range(0, COUNT, 96):
        some = digits[first : first + 96]
        batch = batch_of(table, some, first // 96)

        def noise(i: int, batch: Batch = batch) -> Tensor:
            return StatelessRng(seed).noise(f"sample{i}", batch.sample_ids, batch.latent_shape)

        parts.append(sample(denoiser, sampler, noise(-1), batch.cond, noise=noise))
    pixels, mel = codecs.decode(torch.cat(parts))
    return Clips(pixels, mel, digits, heard_direction(mel))


def measure(clips: Clips, real: Clips) -> Row:
    """Distances of ``clips`` to ``real`` on the leading components of the real ones' pixels and mel energies."""
    distances = []
    for own, other in ((clips.pixels[:, 0], real.pixels[:, 0]), (clips.mel, real.mel)):
        project = principal(other.flatten(1), COMPONENTS)
        distances.append(frechet_distance(project(own.flatten(1)), project(other.flatten(1))))
    seen = seen_direction(clips.pixels)
    agreement = (seen == heard_direction(clips.mel)).float().mean().item()
    digit = (seen_digit(clips.pixels) == clips.digits).float().mean().item()
    return Row(*distances, agreement, digit, seen.bincount(minlength=4).min().item() / len(seen))


def line(label: str, nfe: int, row: Row, teacher: Row) -> str:
    """A row of the table, with distances and agreement over the teacher's."""
    return (
        f"| {label} | {nfe or ''} | {row.picture:.2f} | {row.picture / teacher.picture:.2f} | {row.sound:.2f} | "
        f"{row.sound / teacher.sound:.2f} | {row.agreement:.3f} | {row.agreement / teacher.agreement:.3f} | "
        f"{row.digit:.3f} | {row.rarest:.2f} |"
    )


def exported(folder: Path) -> tuple[LTX2VideoTransformer3DModel, Sampler]:
    """The student of an export, and the sampler of its recipe."""
    recipe = json.loads((folder / "recipe.json").read_text())
    return load(folder), Sampler(tuple(recipe["timesteps"]), recipe["kind"], recipe["guidance_scale"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path, help="what examples/digits_with_sound_teacher.py wrote")
    parser.add_argument("work", type=Path, help="the students that are trained here")
    parser.add_argument("--export", type=Path, nargs="*", default=[], help="exports of students")
    parser.add_argument("--only", nargs="*", choices=STUDENTS, default=[])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    codecs, network, table = Codecs.load(args.teacher), load(args.teacher), captions(args.teacher)
    for name in args.only:
        if not (path := args.work / f"{name}_seed{args.seed}.safetensors").is_file():
            train(STUDENTS[name], network, table, path, args.steps, args.seed)

    (real, _), (other, _) = (make(COUNT, seed) for seed in REAL_SEEDS)

    def measured(network: LTX2VideoTransformer3DModel, sampler: Sampler) -> Row:
        return measure(draw(LTX2Denoiser(network), sampler, table, args.seed, codecs), real)

    many, few = METHOD.sampler(), replace(METHOD, sampling_steps=4).sampler()
    teacher = measured(network, many)
    print(HEAD, line("teacher", many.nfe, teacher, teacher), sep="\n", flush=True)
    print(line("teacher", few.nfe, measured(network, few), teacher), flush=True)
    for folder in args.export:
        student, sampler = exported(folder)
        print(line(f"`{folder.parent.name}`", sampler.nfe, measured(student, sampler), teacher), flush=True)
    for name in args.only:
        network.load_state_dict(load_file(args.work / f"{name}_seed{args.seed}.safetensors"))
        sampler = STUDENTS[name].sampler()
        print(line(f"`{name}`, one process", sampler.nfe, measured(network, sampler), teacher), flush=True)
    pixels, mel = codecs.decode(codecs.encode(other))
    decoded = replace(other, pixels=pixels, mel=mel)
    print(line("other real clips, through the codecs", 0, measure(decoded, real), teacher))


if __name__ == "__main__":
    main()
