"""What Ray unpickles must not cost its processes the import of torch, nor the codec's actors that of diffusers."""

import ast
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from ray_distill.data.encoders import Encoders
from ray_distill.models.pipeline import Pipeline

TEACHER = Path(__file__).parents[3] / "examples/digits_teacher"
MODELS = "diffusers", "transformers", "deepspeed", "mlflow"
PACKAGE = Path(__file__).parents[3] / "ray_distill"
LIGHT = "train.wire.board", "train.wire.heartbeat", "data.feed.stream"  # and all modules that say so of themselves


def light() -> tuple[str, ...]:
    """The modules whose docstring says that they are light to import, and ``LIGHT``."""
    docstrings = {path: ast.get_docstring(ast.parse(path.read_text())) or "" for path in PACKAGE.rglob("*.py")}
    paths = [
        path.relative_to(PACKAGE).with_suffix("")
        for path, text in docstrings.items()
        if "light to import" in text.lower() and path.name != "__init__.py"
    ]
    assert len(paths) >= 6
    return *LIGHT, *(".".join(path.parts) for path in sorted(paths))


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [(light(), ("torch", *MODELS)), (("data.prepare.stages",), ("torch", "ray", *MODELS))],
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


def test_an_encoder_of_clips_behind_a_pca_imports_no_library_of_models(tmp_path: Path) -> None:
    models = Encoders(Pipeline("wan", TEACHER), max_sequence_length=8)
    assert models.fields and not models.sound_rate  # the driver has asked for them, and they travel
    (tmp_path / "models").write_bytes(pickle.dumps(models))
    code = (
        "import pickle, sys\nfrom pathlib import Path\nfrom ray_distill.data.prepare.encode import EncodeClips\n"
        f"EncodeClips(pickle.loads(Path({str(tmp_path / 'models')!r}).read_bytes()))\n"
        f"print([name for name in ('ray', *{MODELS}) if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
