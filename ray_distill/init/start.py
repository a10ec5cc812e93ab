"""Write a first configuration: collect the answers, choose, check the data, write, and name the next commands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from ray_distill.config.keys import ConfigError
from ray_distill.errors import mistakes
from ray_distill.init.answers import Answers, Ask, collect
from ray_distill.init.choose import Choice, choose, parse, with_answers
from ray_distill.plan.report import Assumed, answer, cost
from ray_distill.train.driver.checks.clips import check_data


def init(out: Path, flags: Mapping[str, str | None], ask: Ask | None) -> str:
    """Write ``out`` and return its plan with the next commands; ConfigError, before anything is written, for a wrong
    answer or where nothing fits."""
    check_out(out)
    answers = collect(flags, ask)
    print(f"planning for {answers.cluster} ...", flush=True)
    with mistakes():
        check_data(parse(with_answers(answers.recipes[0], answers, answers.cluster, out.stem)))
        choice = choose(answers, out.stem)
    lines = [*verdict(answers, choice), "", "Next:", *(f"  {line}" for line in commands(out, choice))]
    head = [
        choice.recipe.head[0],
        f"Written by ray-distill init from configs/{choice.recipe.name}.yaml, which has the sources of its numbers; "
        'lines with "init:"',
        "differ from it. It was never run on these weights by its authors.",
        "",
        *lines,
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write("\n".join(f"# {line}".rstrip() for line in head) + "\n" + choice.body)
    except FileExistsError:
        raise ConfigError(exists(out)) from None
    return "\n".join([f"{out}: written from configs/{choice.recipe.name}.yaml", "", *lines])


def check_out(out: Path) -> None:
    if out.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{out}: the file to write ends in .yaml")
    if out.exists():
        raise ConfigError(exists(out))


def exists(out: Path) -> str:
    return f"{out}: this file exists, and is kept; give another name"


def verdict(answers: Answers, choice: Choice) -> list[str]:
    """Lines of the plan: memory, seconds and money."""
    assumed = Assumed(price=answers.cluster.gpu.price)
    texts = answer(choice.estimate, answers.cluster, assumed, None), cost(choice.estimate, answers.cluster, assumed)
    return [line for text in texts for line in text.splitlines()]


def commands(out: Path, choice: Choice) -> list[str]:
    file = shlex.quote(str(out))
    verbs = "check --machine", "check", "prepare", "preflight", "train"
    return [choice.recipe.download, *(f"ray-distill {verb} {file}" for verb in verbs)]
