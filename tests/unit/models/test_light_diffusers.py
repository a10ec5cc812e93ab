"""A worker's networks, imported without the packages that none of them uses."""

import subprocess
import sys

from ray_distill.models import FAMILIES

SCRIPT = """
import sys
from ray_distill.models.light_diffusers import UNUSED, import_networks

import_networks()
import ray_distill.train.worker.loop
from ray_distill.models import families
from torch import nn

for family in families():
    assert issubclass(family.transformer, nn.Module) and callable(family.denoiser)
    assert issubclass(family.codec, nn.Module)
import ray_distill.models.ltx2.sound
print(*(name for name in UNUSED if name in sys.modules))
import peft, transformers
from diffusers.utils import is_peft_available
print(is_peft_available())
"""


def test_no_network_imports_them_and_the_process_still_may():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["", "False"]


TEXT = """
import sys
from importlib import import_module
from pkgutil import iter_modules
from ray_distill import models
from ray_distill.models.light_diffusers import hidden

with hidden("peft", "scipy"):
    texts = [n for m in iter_modules(models.__path__) if m.ispkg for n in [f"ray_distill.models.{m.name}.text"]]
    for name in texts:
        import_module(name)
print(len(texts), *(name for name in ("peft", "scipy") if name in sys.modules))
"""


def test_no_text_encoder_imports_them():
    done = subprocess.run([sys.executable, "-c", TEXT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"{len(FAMILIES)}"]
