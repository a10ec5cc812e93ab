"""SimpleTuner's DCM quick start, by the documented command."""

from __future__ import annotations

import json
from pathlib import Path

from ray_distill.cli import main
from tests.ray.conftest import local_ray  # noqa: F401 (fixture)
from tests.ray.test_simpletuner import documented, run_of, tiny_wan  # noqa: F401 (fixture)


def test_the_dcm_seed_runs(local_ray: None, tiny_wan: Path) -> None:  # noqa: F811
    assert main(documented("dcm_config.json")) == 0
    recipe = json.loads((run_of(Path.cwd()) / "export/recipe.json").read_text())
    assert recipe["kind"] == "ode" and 0 < recipe["boundary_ratio"] < 1
