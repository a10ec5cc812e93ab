"""A run whose updates stay non-finite goes back once, at half the rates, and ends with its cause."""

from __future__ import annotations

import re

import pytest

from ray_distill.cli import main
from tests.ray.conftest import Home


def test_a_broken_run_ends_with_its_cause(
    local_ray: None,
    home: Home,
    capsys: pytest.CaptureFixture[str],
) -> None:
    roles = [f"roles.{role}.optimizer" for role in ("student", "fake_score")]
    rates = [f"{role}.{key}" for role in roles for key in ("learning_rate=1000", "weight_decay=1e30")]
    limits = ["train.nonfinite_limit=2", "train.rollbacks=1", "train.max_failures=2"]
    why = r"rank \d failed at resume: .* stayed non-finite after 1 rollbacks \(train.rollbacks = 1\)"
    assert main(["train", "configs/quickstart.yaml", *home.overrides("broken"), *rates, *limits]) == 1
    said = capsys.readouterr().err
    assert re.search(why, said)
    assert "rollback 1: loss or gradient of" in said and "rollback 2:" in said
