"""Choose the first recipe that fits the GPUs, or the cheapest change with which one does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from ray_distill.config import RunConfig
from ray_distill.config import tree as yaml_tree
from ray_distill.config.keys import ConfigError
from ray_distill.config.kinds import Kinds
from ray_distill.config.load import config_of
from ray_distill.config.roles import follow_students
from ray_distill.init.answers import PRESETS, Answers
from ray_distill.init.edit import Edit, apply
from ray_distill.init.recipes import Recipe
from ray_distill.models import family
from ray_distill.plan.changes import cheapest
from ray_distill.plan.encoding import TEXT_BYTES
from ray_distill.plan.estimate import Estimate, estimate
from ray_distill.plan.hardware import Cluster, parse_cluster
from ray_distill.plan.report import Assumed

WHY = {
    "gradient_checkpointing": "recomputes activations",
    "micro_batch": "fewer samples at a time",
    "zero": "shards the weights",
    "sequence_parallel": "neighbours share the tokens of a clip",
    "dtype": "half the bytes",
    "ema_decay": "no average, which costs quality",
    "ema_interval": "of the average",
    "ema_warmup": "of the average",
    "shared_base": "one network for all roles",
    "offload_optimizer": "in CPU memory",
}
"""Effects of plan's changes, by their keys' last part."""
BESIDE = 2e9
"""Assumed bytes that a text encoder takes beside its weights."""


@dataclass(frozen=True)
class Choice:
    """A recipe with its edits, as text of the written file and as its plan."""

    recipe: Recipe
    body: str
    estimate: Estimate


def choose(answers: Answers, name: str) -> Choice:
    """The recipe for the answers, with its edits; ConfigError, with a cluster that fits, if none fits their GPUs."""
    choice = fitting(answers, answers.cluster, name)
    if choice is not None:
        return choice
    larger = [text for text in PRESETS if fitting(answers, parse_cluster(text), name)]
    files = ", ".join(f"configs/{recipe.name}.yaml" for recipe in answers.recipes)
    where = f"; it fits {', '.join(larger)}" if larger else ""
    raise ConfigError(f"--gpus {answers.cluster}: no change that plan knows makes {files} fit{where}")


def fitting(answers: Answers, cluster: Cluster, name: str) -> Choice | None:
    """The first recipe that fits as it stands, else the first with a change that does, else None."""

    def fits(result: Estimate) -> bool:
        return result.peak.total <= Assumed().free(cluster) and result.config.train.workers == cluster.gpus

    bodies = [(recipe, with_answers(recipe, answers, cluster, name)) for recipe in answers.recipes]
    for recipe, body in bodies:
        if fits(result := estimate(parse(body))):
            return Choice(recipe, body, result)
    for recipe, body in bodies:
        if change := cheapest(parse(body), fits):
            for edit in edits_of(change.keys, cluster):
                body = apply(body, edit)
            result = estimate(parse(body))
            assert fits(result), f"{recipe.name}: the file is not the configuration that was planned"
            return Choice(recipe, body, result)
    return None


def with_answers(recipe: Recipe, answers: Answers, cluster: Cluster, name: str) -> str:
    body = recipe.body
    edits = [
        Edit("name", name, f"of configs/{recipe.name}.yaml"),
        Edit("data.datasets", [dict(answers.dataset)], "your data", other="manifest"),
        Edit("train.workers", cluster.gpus, "one for each GPU"),
        *text_encoder(parse(body), cluster),
    ]
    for edit in edits:
        body = apply(body, edit)
    return body


def text_encoder(config: RunConfig, cluster: Cluster) -> Iterator[Edit]:
    """The widest precision in which the text encoder fits a GPU, else one encoder on CPUs, where each holds all its
    weights."""
    free, of = Assumed().free(cluster), family(config.model.family)
    size = {kind: of.text_billions * TEXT_BYTES[kind] for kind in of.text_precisions}
    order = of.text_precisions[of.text_precisions.index(config.model.text_encoder_precision) :]
    precision = next((kind for kind in order if size[kind] * 1e9 + BESIDE <= free), None)
    if precision is None:
        why = f"in {order[-1]} the text encoder takes {size[order[-1]]:.1f} GB of {cluster.gpu.memory} GiB"
        yield Edit("data.encoder_gpus", 0, why)
        yield Edit("data.encoders", 1, "each holds the text encoder in CPU memory")
    elif precision != order[0]:
        why = f"in {order[0]} it takes {size[order[0]]:.1f} GB of {cluster.gpu.memory} GiB"
        yield Edit("model.text_encoder_precision", precision, why)


def edits_of(keys: tuple[str, ...], cluster: Cluster) -> Iterator[Edit]:
    """Edits of plan's changes, written ``key=value``."""
    for key, value in (text.split("=") for text in keys):
        yield Edit(key, yaml.safe_load(value), f"to fit {cluster.gpu.memory} GiB: {WHY[key.rpartition('.')[2]]}")


def parse(text: str) -> RunConfig:
    """The configuration of a text, without environment and command line."""
    tree = yaml_tree.parse(text, Kinds.of(RunConfig))
    follow_students(tree)
    return config_of(RunConfig, tree)
