"""What Ray's controller and fetch tasks unpickle must not cost them the import of torch."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["train.wire.job", "train.worker.entry", "data.feed.stream"])
def test_it_is_light_to_import(module: str) -> None:
    code = f"import sys, ray_distill.{module}; print({{'torch', 'diffusers', 'transformers'}} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
