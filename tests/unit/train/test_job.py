"""What Ray unpickles must not cost its processes the import of torch, nor decode tasks that of a library of models."""

import subprocess
import sys

import pytest

MODELS = "diffusers", "transformers", "deepspeed", "mlflow"
LIGHT = (
    "train.wire.job",
    "train.wire.board",
    "train.wire.heartbeat",
    "train.worker.entry",
    "train.driver.system_metrics",
    "tune.trial",
    "data.feed.stream",
)


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [(LIGHT, ("torch", *MODELS)), (("data.prepare.stages",), ("ray.data", *MODELS))],
)
def test_light_to_import(modules: tuple[str, ...], heavy: tuple[str, ...]) -> None:
    code = (
        "import importlib, sys\n"
        f"for module in {modules}:\n"
        "    importlib.import_module(f'ray_distill.{module}')\n"
        f"    print(*(f'{{module}} imports {{name}}' for name in {heavy} if name in sys.modules), sep='\\n', end='')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
