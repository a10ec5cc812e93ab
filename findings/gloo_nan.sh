#!/usr/bin/env bash
# gloo's MAX and MIN where one rank has NaN, over four ranks.
# Versions: torch 2.13.0.
# Guess: the result is NaN on every rank, as with SUM and as with torch.maximum of two tensors.
# Seen: NaN on every rank where it is rank 0's. Elsewhere it disappears, and with it the ranks behind: of 1, NaN, 3, 4 the MAX is 1, of
# 1, 2, 3, NaN it is 3. Ranks agree with one another, so nothing looks wrong. A vote by MAX on "is anything not finite" has to be about
# flags, not about the values themselves; SUM is NaN as guessed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
cat >ranks.py <<'PYTHON'
import math
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

RANKS = 4
LOST = {  # rank that has NaN: what all ranks get by MAX and MIN of rank + 1
    0: (math.nan, math.nan),
    1: (1.0, 1.0),
    2: (2.0, 1.0),
    3: (3.0, 1.0),
}


def run(rank, store, results):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    for bad in range(RANKS):
        row = []
        for op in (dist.ReduceOp.MAX, dist.ReduceOp.MIN, dist.ReduceOp.SUM):
            value = torch.tensor([math.nan if rank == bad else rank + 1.0])
            dist.all_reduce(value, op)
            row.append(value.item())
        results[rank, bad] = row
    dist.destroy_process_group()


def equal(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


if __name__ == "__main__":
    print(f"torch {torch.__version__}")
    assert torch.maximum(torch.tensor(1.0), torch.tensor(math.nan)).isnan()
    with mp.Manager() as manager, tempfile.TemporaryDirectory() as folder:
        results = manager.dict()
        mp.spawn(run, (f"{folder}/store", results), nprocs=RANKS)
        for bad, (most, least) in LOST.items():
            rows = [results[rank, bad] for rank in range(RANKS)]
            print(f"NaN at rank {bad} of 1, 2, 3, 4: MAX {rows[0][0]}, MIN {rows[0][1]}, SUM {rows[0][2]}")
            assert all(equal(a, b) for row in rows for a, b in zip(row, rows[0])), "ranks differ"
            assert equal(rows[0][0], most) and equal(rows[0][1], least), f"expected {most}, {least}"
            assert math.isnan(rows[0][2])
PYTHON
OMP_NUM_THREADS=1 "$folder/venv/bin/python" ranks.py
