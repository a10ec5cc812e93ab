#!/usr/bin/env bash
# How long actors and tasks outlive a driver that is killed with -9.
# Versions: Ray 2.60.0, two CPUs, a Ray that the driver started itself.
# Guess: not at all; their owner is dead, and Ray's processes notice a closed socket at once.
# Seen: they go on at full speed for 1.6 and 1.9 s (0.5 s after SIGTERM): what they finish in that time, such as a file that they complete, is there, and the driver has
# heard nothing of it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0 setuptools
cd "$folder"
cat > driver.py <<'PYTHON'
import time

import ray

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")


def write(path):
    with open(path, "a", buffering=1) as file:
        while True:
            file.write(f"{time.time()}\n")
            time.sleep(0.01)


@ray.remote
class Actor:
    def write(self, path):
        write(path)


actor = Actor.remote()
left = [actor.write.remote("actor.txt"), ray.remote(write).remote("task.txt")]
time.sleep(60)
PYTHON
cat > orphans.py <<'PYTHON'
import importlib.metadata
import pathlib
import signal
import subprocess
import sys
import time

print("ray", importlib.metadata.version("ray"))
files = [pathlib.Path("actor.txt"), pathlib.Path("task.txt")]
for number in (signal.SIGKILL, signal.SIGTERM):
    for file in files:
        file.unlink(missing_ok=True)
    driver = subprocess.Popen([sys.executable, "driver.py"], stderr=subprocess.DEVNULL)
    while not all(file.exists() for file in files):
        time.sleep(0.1)
    time.sleep(2)
    sent = time.time()
    driver.send_signal(number)
    driver.wait()
    time.sleep(15)
    seconds = {file.stem: float(file.read_text().splitlines()[-1]) - sent for file in files}
    print(number.name, {name: round(value, 2) for name, value in seconds.items()})
    assert all(value < 14 for value in seconds.values()), "expected them to end"
    if number == signal.SIGKILL:
        assert all(value > 0.3 for value in seconds.values()), "expected them to go on for a while"
PYTHON
"$folder/venv/bin/python" orphans.py
