"""Each key of the schema has a meaning, and `check --explain` and `--all` show it with its value."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_distill.cli import main
from ray_distill.config.explain import Key, all_keys, explain
from ray_distill.config.keys import ConfigError, flatten, plain
from ray_distill.config.load import load_config

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.fixture(scope="module")
def keys() -> tuple[Key, ...]:
    return all_keys()


def test_every_key_has_a_meaning(keys: tuple[Key, ...]) -> None:
    assert [key.name for key in keys if not key.meaning.endswith((".", "..."))] == []


@pytest.mark.parametrize(
    "name", ["quickstart", "dmd_phased_quickstart", "dcm_fine_quickstart", "wan2.1_1.3b/self_forcing"]
)
def test_every_key_of_a_configuration_is_explained(keys: tuple[Key, ...], name: str) -> None:
    config = load_config(CONFIGS / f"{name}.yaml", environment={}).config
    known = [key for key in keys if not key.methods or config.method.name in key.methods]
    names = [own for own in flatten(config.dump()) if not own.startswith("evaluate.prompts.")]
    assert [own for own in names if not any(key.is_at(own, whole=True) for key in known)] == []


def test_a_key_is_shown_with_its_value_and_source() -> None:
    path = CONFIGS / "quickstart.yaml"
    loaded = load_config(path, ["train.steps=9"], environment={})
    assert explain(loaded, ["train.steps"]).splitlines() == [
        "train.steps: whole number > 0, <= 1000000000; required",
        "  Steps of the run. A step updates each role whose turn it is, by one global batch.",
        "  train.steps = 9 (command line)",
    ]
    zero = explain(loaded, ["roles.student.zero"])
    assert zero.startswith("roles.NAME.zero: 0 or 1 or 2 or 3; default 2") and zero.endswith(
        f"student.zero = 2 ({path})"
    )
    of_method = explain(loaded, ["method.huber_c", "method.student_interval"])
    assert (
        "  of causal_consistency, dcm_fine, dcm_semantic, lcm" in of_method
        and "method.student_interval = 5" in of_method
    )


def test_a_section_is_all_its_keys_and_an_unknown_key_has_a_neighbour() -> None:
    loaded = load_config(CONFIGS / "quickstart.yaml", environment={})
    assert explain(loaded, ["track"]).count("\n  track.") == 4
    with pytest.raises(ConfigError, match=r"--explain train\.step: no such key; did you mean 'train\.steps'"):
        explain(loaded, ["train.step"])


def test_check_shows_what_is_set_and_all_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(CONFIGS / "quickstart.yaml")
    main(["check", path])
    short = capsys.readouterr().out
    main(["check", path, "--all"])
    long = capsys.readouterr().out
    assert (
        "train.micro_batch" in short and "train.max_failures" not in short and "other keys have their defaults" in short
    )
    (row,) = [line for line in long.splitlines() if line.startswith("train.max_failures ")]
    assert row.split()[1:3] == ["3", "default"] and row.endswith("-1: any number.")
    assert main(["check", path, "--explain", "seed"]) == 0
    assert capsys.readouterr().out.startswith("seed: whole number")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ("", '""'),
        ([1.5, 832.0], "[1.5, 832]"),
        ({"a": False}, "{a: false}"),
        (0.1234567890123, "0.1234567890123"),
    ],
)
def test_values_are_shown_as_they_are_written(value: object, text: str) -> None:
    assert plain(value) == text
