#!/usr/bin/env bash
# Two threads that import from diffusers and transformers at the same time.
# Versions: diffusers 0.42.1, transformers 5.23.0, torch 2.13.0.
# Guess: Python's locks of imports make one thread wait for the other, so that both get their names.
# Seen: both packages make their names on demand, and a thread that comes while another is at it is told "cannot import name", for a name
# that is there, or that importing a module of diffusers failed: in all of 12 processes here, in 21 of 60 of an application whose imports
# overlapped by chance. One thread after the other gets everything. A server that loads a pipeline in a thread while another imports meets
# this.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 transformers==5.23.0 torch==2.13.0 numpy setuptools
cd "$folder"
cat > threads.py <<'PYTHON'
import random
import sys
import threading
import time

together, seed = sys.argv[1] == "together", int(sys.argv[2])
random.seed(seed)
sys.setswitchinterval(1e-5)  # as on a machine whose cores are busy
import torch  # noqa: E402, F401

told = []


def pipeline():
    from diffusers import WanPipeline  # noqa: F401


def parts():
    from diffusers import AutoencoderKLWan, WanTransformer3DModel  # noqa: F401
    from transformers import AutoTokenizer, UMT5EncoderModel  # noqa: F401


def attempt(work, wait):
    time.sleep(wait)
    try:
        work()
    except (ImportError, RuntimeError) as error:
        told.append(" ".join(str(error).split())[:110])


threads = [threading.Thread(target=attempt, args=(work, random.random())) for work in (pipeline, parts)]
for thread in threads:
    thread.start()
    if not together:
        thread.join()
for thread in threads:
    thread.join()
print(told[0] if told else "both")
PYTHON
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import subprocess
import sys
from collections import Counter

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("diffusers", "transformers", "torch")))


def ends(how, runs):
    command = [sys.executable, "threads.py", how]
    done = [subprocess.run([*command, str(seed)], capture_output=True, text=True, check=True) for seed in range(runs)]
    return Counter(each.stdout.strip() for each in done)


alone, together = ends("apart", 3), ends("together", 12)
print("one after the other:", dict(alone))
print("at the same time:")
for text, count in together.most_common():
    print(f"  {count} of 12: {text}")
assert set(alone) == {"both"}, "expected both threads to get their names one after the other"
assert together["both"] < 12, "expected a thread that is told of a name that cannot be imported"
PYTHON
