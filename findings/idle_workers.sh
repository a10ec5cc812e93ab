#!/usr/bin/env bash
# Which processes Ray's next tasks run in, after a pause in which something else had the CPUs.
# Versions: Ray 2.60.0, two CPUs.
# Guess: those of the tasks before, with all that they have imported; the pool has one for each CPU.
# Seen: only if the CPUs were free meanwhile. The number of idle workers that stay is the number of CPUs that are free, so an actor that
# takes them for three seconds costs every idle worker its life, and the next tasks import everything again. A pipeline whose stages share
# the CPUs of a small machine does so all along. RAY_idle_worker_killing_time_threshold_ms, 1000 by default, makes them stay longer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0 setuptools
cd "$folder"
cat > tasks.py <<'PYTHON'
import os
import sys
import time

import ray

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)


@ray.remote
def work():
    time.sleep(0.5)  # so that both CPUs are needed
    return os.getpid()


@ray.remote(num_cpus=2)
class Holder:
    def hold(self):
        time.sleep(3)


def processes():
    return set(ray.get([work.remote() for _ in range(2)]))


before = processes()
if sys.argv[1] == "taken":
    holder = Holder.remote()
    ray.get(holder.hold.remote())
    ray.kill(holder)
else:
    time.sleep(3)
after = processes()
print(len(before & after))
PYTHON
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import os
import subprocess
import sys

print("ray", importlib.metadata.version("ray"))
NAME = "RAY_idle_worker_killing_time_threshold_ms"


def kept(cpus, **more):
    """How many of two processes serve again after three seconds in which the CPUs were free or taken."""
    env = {name: value for name, value in os.environ.items() if name != NAME} | more
    done = subprocess.run([sys.executable, "tasks.py", cpus], env=env, capture_output=True, text=True, check=True)
    return int(done.stdout)


free, taken, patient = kept("free"), kept("taken"), kept("taken", **{NAME: "30000"})
print("CPUs free:", free, "of 2 processes serve again; taken:", taken, "; taken, with a threshold of 30 s:", patient)
assert free == 2, "expected idle workers to stay while CPUs are free"
assert taken == 0, "expected idle workers to end while CPUs are taken"
assert patient >= 1, "expected the threshold to keep them"
PYTHON
