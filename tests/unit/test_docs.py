"""Every `ray-distill` command of the documents is one that the tool takes; plans are run, the README's in tests/ray."""

import re
import shlex
from pathlib import Path

import pytest

from ray_distill.cli import main, parse
from ray_distill.config import load_config
from ray_distill.tune.space import load_sweep

ROOT = Path(__file__).parents[2]
MADE = "output/"  # configurations that a command before has written


def commands() -> list[str]:
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(r"^```\n(.*?)^```", path.read_text(), re.S | re.M):
            lines = [line.partition("  #")[0].strip() for line in block.replace("\\\n", "").splitlines()]
            found += [line for line in lines if line.startswith("ray-distill ")]
    return sorted(set(found))


def test_there_are_commands() -> None:
    assert len(commands()) >= 12


@pytest.mark.parametrize("line", commands())
def test_a_documented_command_is_taken(line: str) -> None:
    args = parse(shlex.split(line)[1:])
    if str(args.config).startswith(MADE):
        assert args.verb == "train"
    elif args.verb == "import":
        load_config(Path(args.overrides[0]), args.overrides[1:], environment={})
    elif args.verb == "track":
        assert str(args.config) == "sync" and args.overrides[0].startswith(MADE)
    elif args.verb == "tune":
        load_sweep(args.config, args.overrides)
    elif args.verb == "plan":
        assert main(shlex.split(line)[1:]) in (0, 1)
    else:
        load_config(args.config, args.overrides, environment={})
