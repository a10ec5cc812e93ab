#!/usr/bin/env bash
# torch's distributed checkpoint, loaded into tensors of another dtype, and its error where shapes differ.
# Versions: torch 2.13.0 (CPU).
# Guess: another dtype is an error, as another shape is, and the error is an Exception like any other.
# Seen: dtypes are cast without a word, and float32 values into int8 lose their fraction and wrap: 300 becomes 44. Another shape raises
# CheckpointException, which derives from BaseException alone: `except Exception` does not catch it. A key of the file that nobody asks
# for is left; a list comes back in the file's length.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import tempfile
import warnings

import torch
import torch.distributed.checkpoint as dcp

warnings.simplefilter("ignore")


def loaded(saved, into):
    with tempfile.TemporaryDirectory() as folder:
        dcp.save({"w": saved, "other": torch.ones(2), "list": [1, 2, 3]}, checkpoint_id=folder)
        state = {"w": into, "list": [0]}
        dcp.load(state, checkpoint_id=folder)
        return state


print(f"torch {torch.__version__}")
weights = torch.tensor([1.001, -2.9, 300.0])
for dtype, expected in (
    (torch.float32, weights),
    (torch.bfloat16, weights.bfloat16()),
    (torch.int8, torch.tensor([1, -2, 44], dtype=torch.int8)),
):
    state = loaded(weights, torch.zeros(3, dtype=dtype))
    print(f"into {dtype}: {state['w'].tolist()}, the list {state['list']}")
    assert torch.equal(state["w"], expected), f"expected {expected}"
    assert state["list"] == [1, 2, 3]
try:
    loaded(weights, torch.zeros(2))
    raise SystemExit("expected an error")
except dcp.api.CheckpointException as error:
    print(f"another shape: {type(error).__name__}, an Exception: {isinstance(error, Exception)}")
    assert not isinstance(error, Exception), "expected no Exception"
PYTHON
