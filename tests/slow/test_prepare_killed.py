"""A preparation that is killed costs what it was about to write."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from ray_distill.data.store.cache import Cache
from ray_distill.models.spec import Field
from tests.ray.conftest import ROOT, Home, wait_for

COMMAND = "import sys; from ray_distill.cli import main; sys.exit(main(sys.argv[1:]))"


def prepare(home: Home, cache: Path) -> subprocess.Popen[str]:
    """A process group of its own, with a Ray of its own."""
    command = ["prepare", str(ROOT / "configs/quickstart.yaml"), *home.overrides("killed", f"data.cache_dir={cache}")]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *command, "data.encode_batch=2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def written(cache: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime for path in cache.glob("latents/*/*.parquet")}


def test_a_killed_preparation_goes_on_and_ends_equal(home: Home, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert prepare(home, whole).wait(timeout=300) == 0
    first = prepare(home, killed)
    wait_for(lambda: len(written(killed)) >= 3, "three files of latents", 120)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(timeout=60)
    before = written(killed)
    kept = sum(pq.read_metadata(path).num_rows for path in before)
    assert 3 <= kept < 60 and not list(killed.glob("*/card.json"))
    again = prepare(home, killed)
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert f"clips: {60 - kept} of {60 - kept}" in errors
    assert {path: time for path, time in written(killed).items() if path in before} == before

    caches = [Cache(next(folder.glob("*/card.json")).parent) for folder in (whole, killed)]
    assert caches[0].folder.name == caches[1].folder.name
    fields = {"text": Field((8, 64), padding="zeros")}
    rows = [
        (cache.rows(range(60), ["id", "caption", "shape", "latents"]), cache.conditions(range(60), fields))
        for cache in caches
    ]
    assert rows[0] == rows[1]
    shutil.rmtree(tmp_path)
