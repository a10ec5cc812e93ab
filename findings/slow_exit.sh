#!/usr/bin/env bash
# What it costs to leave a process that has imported a large stack.
# Versions: torch 2.13.0, diffusers 0.42.1, transformers 5.23.0, peft 0.21.2.
# Guess: nothing: a process that ends gives its memory back at once.
# Seen: Python takes its modules apart, object by object, and looks for garbage in them: a quarter of the CPU time of their import, 0.95
# of 4.0 s (3.2 to 5.3 of 12 to 15 s in an application with 5,945 modules on a slower machine). With gc.freeze as the last handler of
# atexit there is nothing to look at: 0.14 s. gc.disable hardly helps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 peft==0.21.2 scipy
cd "$folder"
cat > leave.py <<'PYTHON'
import atexit
import gc
import sys
import time

how = sys.argv[1]
if how == "frozen":
    atexit.register(gc.freeze)
from diffusers import WanPipeline  # noqa: E402, F401

if how == "disabled":
    gc.disable()
print(time.process_time(), len(sys.modules), flush=True)
PYTHON
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import resource
import statistics
import subprocess
import sys

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "diffusers", "transformers", "peft")))
print("Python", sys.version.split()[0])


def cost(how):
    """CPU seconds of the import and of the exit."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    text = subprocess.run([sys.executable, "leave.py", how], capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    start, modules = map(float, text.split())
    return start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - start, int(modules)


cost("plain")  # compiles the modules
rows = {how: [cost(how) for _ in range(3)] for how in ("plain", "disabled", "frozen")}
ends = {how: statistics.median(end for _, end, _ in found) for how, found in rows.items()}
for how, found in rows.items():
    print(f"{how:9} import {statistics.median(start for start, _, _ in found):.1f} s, exit {ends[how]:.2f} s, {found[0][2]} modules")
assert ends["plain"] > 3 * ends["frozen"], "expected a slow exit"
assert ends["disabled"] > 2 * ends["frozen"], "expected gc.disable to help little"
PYTHON
