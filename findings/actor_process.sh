#!/usr/bin/env bash
# Whether an actor begins in an idle process that has run a task, and so has its imports.
# Versions: Ray 2.60.0, two CPUs.
# Guess: yes, as a later task does; the pool of idle processes serves both, so that a task can warm an actor's imports.
# Seen: never. A process that has run a task serves tasks alone until it ends; an actor takes one that has run nothing, or a new one. Two idle
# processes with everything imported do not help the next actor, with or without a runtime environment.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0 setuptools
cd "$folder"
cat > pool.py <<'PYTHON'
import importlib.metadata
import os
import time

import ray

print("ray", importlib.metadata.version("ray"))
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)


@ray.remote
def work():
    import decimal  # stands for the imports

    time.sleep(0.5)  # so that both CPUs are needed
    return os.getpid(), decimal.__name__


@ray.remote(num_cpus=1)
class Actor:
    def process(self):
        return os.getpid()


def processes(**options):
    return {pid for pid, _ in ray.get([work.options(**options).remote() for _ in range(2)])}


def actor(**options):
    """The process of a new actor."""
    made = Actor.options(**options).remote()
    pid = ray.get(made.process.remote())
    ray.kill(made)
    return pid


for options in ({}, {"runtime_env": {"env_vars": {"APART": "1"}}}):
    first = processes(**options)
    time.sleep(0.5)
    again = processes(**options)
    actors = {actor(**options) for _ in range(3)}
    print(f"{options}: tasks in {len(first)} processes, later tasks in {len(again & first)} of them,", end=" ")
    print(f"{len(actors)} actors in {len(actors & (first | again))} of them")
    assert again & first, "expected tasks to share processes"
    assert not actors & (first | again), "expected actors in processes of their own"
PYTHON
"$folder/venv/bin/python" pool.py
