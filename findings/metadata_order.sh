#!/usr/bin/env bash
# Bytes of safetensors files of one content: the same tensors and the same metadata, saved again and again in one process.
# Versions: safetensors 0.8.0, numpy 2.4.6.
# Guess: a format without time stamps gives equal files for equal content, so that a checksum tells whether weights have changed.
# Seen: with one entry of metadata, or none, yes. With several their order in the header is drawn anew for each save, and with it the
# file's checksum; the tensors keep theirs, by dtype and name, whatever the order in which they are given. A LoRA file has several entries
# as a rule.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import hashlib
import json

import numpy as np
import safetensors
from safetensors.numpy import save

SAVES = 40
TENSORS = {"b": np.arange(4.0), "a": np.arange(3.0), "c": np.arange(2, dtype=np.float16)}


def header(content):
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def files(metadata, tensors=TENSORS):
    return [save(dict(tensors), metadata=metadata) for _ in range(SAVES)]


print(f"safetensors {safetensors.__version__}, numpy {np.__version__}; {SAVES} saves of equal content")
metadata = {"format": "pt", "rank": "16", "alpha": "16", "software": "x"}
for count in (0, 1, 2, 4):
    contents = files(dict(list(metadata.items())[:count]) or None)
    sums = {hashlib.sha256(content).hexdigest() for content in contents}
    print(f"{count} entries of metadata: {len(sums)} different checksums")
    assert (len(sums) == 1) == (count < 2)
    assert len({header(content).get("__metadata__", {}).get("format") for content in contents}) == 1
orders = {tuple(header(content)["__metadata__"]) for content in contents}
print(f"orders of the metadata, such as {sorted(orders)[:2]}")
assert len(orders) == len(sums)
turned = files({"format": "pt"}, dict(reversed(TENSORS.items())))
assert set(turned) == set(files({"format": "pt"}))
print("tensors that are given in another order: the same file")
PYTHON
