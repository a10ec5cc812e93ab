"""A sampling process keeps the memory that it frees."""

import os
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
    """Page faults of twenty forwards in a process that begins with an allocator which returns every block at once."""
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", FAULTS, argument]
    code = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert code.returncode == 0, code.stderr
    return int(code.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's setting")
def test_freed_pages_are_not_cleared_again():
    assert keep_freed_memory()
    assert faults("keep") < 20 * 6 <= faults("default")  # at least one for each block
