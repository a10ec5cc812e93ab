#!/usr/bin/env bash
# The order in which Ray starts queued tasks that ask for the same resources.
# Versions: Ray 2.60.0.
# Guess: a queue: what was submitted first starts first, whatever function it calls.
# Seen: so it is among tasks of one remote function, options or not. A function that ray.remote wraps anew for each call is another
# function each time: its tasks start in no order at all, so that the longest may come last and hold everybody up. Functions take
# turns: another's task of 0.8 s starts second or third, before those of the first that have waited longer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "ray==2.60.0" setproctitle
cd "$folder"
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" - <<'PYTHON'
import time

import ray

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)


def first(name, seconds=0.2):
    began = time.time()
    time.sleep(seconds)
    return began, name


def second(name, seconds):
    return first(name, seconds)


def order(tasks):
    return [name for _, name in sorted(ray.get(tasks), key=lambda task: task[0])]


one, other = ray.remote(num_cpus=1)(first), ray.remote(num_cpus=1)(second)
ray.get(one.remote(0))
numbers = list(range(16))
print(f"Ray {ray.__version__}, one CPU")
seen = order([one.remote(n) for n in numbers])
print("one function:       ", seen)
assert seen == numbers, "expected the order of submission"
seen = order([one.options(num_cpus=1, name=f"task {n}").remote(n) for n in numbers])
print("with options:       ", seen)
assert seen == numbers, "expected the order of submission"
seen = order([ray.remote(num_cpus=1)(first).remote(n) for n in numbers])
print("wrapped for each:   ", seen)
assert seen != numbers and sorted(seen) == numbers, "expected another order"
seen = order([*[one.remote(n, 0.8) for n in range(6)], other.remote("other", 0.8)])
print("then another's task:", seen)
assert seen.index("other") in (1, 2), "expected it to overtake those that wait"
PYTHON
