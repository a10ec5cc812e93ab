"""A sampling process keeps the memory that it frees."""

import subprocess
import sys

import pytest

from ray_distill.evaluate.allocation import keep_freed_memory

FAULTS = """
import resource, sys
import torch
from ray_distill.evaluate.allocation import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)

def forward():
    layers = [torch.ones(1 << 20) for _ in range(6)]  # 4 MiB each, freed together

for _ in range(3):
    forward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    forward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(argument: str) -> int:
    code = subprocess.run([sys.executable, "-c", FAULTS, argument], capture_output=True, text=True, timeout=120)
    assert code.returncode == 0, code.stderr
    return int(code.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's setting")
def test_freed_pages_are_not_cleared_again():
    assert keep_freed_memory()
    assert faults("keep") < 1000 < 10_000 < faults("default")
