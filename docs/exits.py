"""Measure a trained student after each of its steps, as the tables of exits in docs/students.md do.

    python docs/exits.py CONFIG [key=value ...]

Sampled with its first k steps, a student ends at exit k. Give the run's own keys. A line for each exit has Fréchet
distance, accuracy and diversity by evaluate.metric, means over evaluate.seeds.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean

import ray

from ray_distill.config import load_config
from ray_distill.evaluate.generate import Generator
from ray_distill.evaluate.metrics import frechet_distance
from ray_distill.evaluate.samples import Candidate
from ray_distill.train.driver.cluster import cluster
from ray_distill.train.driver.fit import newest
from ray_distill.train.launch import cache_of
from ray_distill.types import STUDENT


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args(arguments)
    config = load_config(args.config, args.overrides).config
    if config.evaluate.metric is None:
        parser.error("evaluate.metric is not set: set it to the folder of a classifier, which the distance needs")
    whole, checkpoint, seeds = config.method.sampler(), newest(config).folder, config.evaluate.seeds
    with cluster():
        generator = Generator(config, cache_of(config))
        exits = [replace(whole, timesteps=whole.timesteps[:k]) for k in range(1, len(whole.timesteps) + 1)]
        students = [Candidate(STUDENT, each, checkpoint) for each in exits]
        tasks = [[generator.start(student, seed, measured=False) for seed in seeds] for student in students]
        print("| exit | FD | accuracy | diversity |\n|---|---|---|---|")
        for k, of_seeds in enumerate(tasks, 1):
            seen = ray.get(of_seeds, timeout=config.train.timeout_s)
            distance = mean(frechet_distance(samples.features, generator.real) for samples in seen)
            few = any(s.diversity is None for s in seen)  # fewer than two videos of each prompt
            diversity = "-" if few else f"{mean(s.diversity for s in seen):.2f}"
            print(f"| {k} | {distance:.1f} | {mean(s.accuracy for s in seen):.3f} | {diversity} |")


if __name__ == "__main__":
    main()
