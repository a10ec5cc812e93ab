"""Run an export's sample.py in this process: a fresh one imports diffusers for seconds."""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

BESIDE = ("causal_wan", "sample_by_chunks", "sample_from_picture")
"""Modules of ours that lie beside some scripts: each export has its own."""


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> dict[str, object]:
    """The script's names; without arguments they are defined and nothing is sampled."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["sample.py", *map(str, arguments)])
        patch.syspath_prepend(str(folder))
        for name in BESIDE:
            patch.delitem(sys.modules, name, raising=False)
        return runpy.run_path(str(folder / "sample.py"), run_name="__main__" if arguments else "sample")


@pytest.fixture
def scripts_in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`verify` runs scripts here. unit/export/test_export and tests/slow have those in a process of their own."""

    def by_script(folder: Path, arguments: Sequence[str], seed: int, timeout_s: float) -> Tensor:
        out = tmp_path / "latents.safetensors"
        run(folder, monkeypatch, *arguments, out, seed)
        return load_file(out)["latents"]

    monkeypatch.setattr("ray_distill.export.verify._by_script", by_script)
