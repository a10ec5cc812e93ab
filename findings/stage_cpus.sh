#!/usr/bin/env bash
# How many tasks of the first of three stages Ray Data runs at once.
# Versions: Ray 2.60.0, two and eight CPUs.
# Guess: as many as fit beside one task of each other stage: (2 - 0.2 - 0.25) / 0.75 is two on two CPUs, (8 - 0.45) / 0.75 ten on eight.
# Seen: one on two CPUs, also at 0.48 CPUs a task, where three would fit, and on eight fewer than eight (five). Each stage keeps a sixth of the CPUs
# for itself (half of them, divided by three), and the last stages take a third and a half of what is left; what they do not use stays
# idle, though the first stage waits. Two run on two CPUs at 0.3. DataContext.op_resource_reservation_ratio = 0 does not change that.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "ray[data]==2.60.0" setuptools
cd "$folder"
cat > stages.py <<'PYTHON'
import sys
import time

import pyarrow as pa
import ray
import ray.data

cpus, asked, ratio = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
context = ray.data.DataContext.get_current()
context.enable_progress_bars, context.op_resource_reservation_ratio = False, ratio


@ray.remote(num_cpus=0)
class Count:
    def __init__(self):
        self.running = self.most = 0

    def add(self, change):
        self.running += change
        self.most = max(self.most, self.running)

    def seen(self):
        return self.most


count = Count.remote()


def first(batch):
    ray.get(count.add.remote(1))
    time.sleep(1)
    ray.get(count.add.remote(-1))
    return batch


rows = ray.data.from_arrow([pa.table({"number": [number]}) for number in range(6 * cpus)])
rows = rows.map_batches(first, batch_size=None, num_cpus=asked)
rows = rows.map_batches(lambda batch: batch, batch_size=None, num_cpus=0.2)
rows = rows.map_batches(lambda batch: batch, batch_size=None, num_cpus=0.25)
for _ in rows.iter_batches(batch_size=None):
    pass
print(ray.get(count.seen.remote()))
PYTHON
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import subprocess
import sys

print("ray", importlib.metadata.version("ray"))


def at_once(cpus, asked, ratio=0.5):
    done = subprocess.run(
        [sys.executable, "stages.py", str(cpus), str(asked), str(ratio)], capture_output=True, text=True, check=True
    )
    seen = int(done.stdout.split()[-1])
    print(f"{cpus} CPUs, {asked} a task, ratio {ratio}: {seen} at once; {int((cpus - 0.45) / asked)} would fit")
    return seen


assert at_once(2, 0.75) == 1, "expected one task where two would fit"
assert at_once(2, 0.48) == 1, "expected one task where three would fit"
assert at_once(2, 0.3) == 2, "expected two tasks"
assert at_once(8, 0.75) < 8, "expected fewer tasks than CPUs"
assert at_once(2, 0.48, 0.0) == 1, "expected one task without a reservation"
PYTHON
