#!/usr/bin/env bash
# Frames that MLflow's log_image writes: the same greys as floats in [0, 1], in [-1, 1], in [0, 255], and as integers.
# Versions: mlflow 3.17.2, numpy 2.4.6, pillow 13.0.0.
# Guess: floats in [0, 1] are multiplied by 255 and others clipped, or refused.
# Seen: a picture with one float outside of [0, 1] is stretched from its own least to its own largest value, with a warning: frames of a fade
# in [-1, 1] come out alike, but for those that lie in [0, 1], which are taken for brighter ones; one frame of a clip changes its contrast
# while the next does not. Integers are taken as they are: a mask of 0 and 1 is black, and one of bools is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2 numpy==2.4.6 pillow==13.0.0
cd "$folder"
MLFLOW_TRACKING_URI="sqlite:///$folder/mlflow.db" "$folder/venv/bin/python" - <<'PYTHON'
import logging
import warnings

import mlflow
import numpy as np
import PIL
from PIL import Image

logging.disable(logging.INFO)
warnings.simplefilter("ignore")
client = mlflow.MlflowClient()
run = client.create_run(client.create_experiment("findings", artifact_location="artifacts")).info.run_id


def written(picture):
    """Least and largest value of the file that a picture of two greys becomes."""
    client.log_image(run, picture, "picture.png")
    pixels = np.asarray(Image.open(client.download_artifacts(run, "picture.png", ".")))
    return int(pixels.min()), int(pixels.max())


def greys(low, high, dtype=np.float32):
    return np.stack([np.full((8, 8, 3), value, dtype) for value in (low, high)], axis=1).reshape(16, 8, 3)


print(f"mlflow {mlflow.__version__}, numpy {np.__version__}, pillow {PIL.__version__}")
for name, picture, expected in (
    ("floats of 0.25 and 0.75", greys(0.25, 0.75), (63, 191)),
    ("the same in [-1, 1], -0.5 and 0.5", greys(-0.5, 0.5), (0, 255)),
    ("and a little later, -0.6 and -0.4", greys(-0.6, -0.4), (0, 255)),
    ("and where both are above 0, 0.1 and 0.5", greys(0.1, 0.5), (25, 127)),
    ("floats of 0.25 and 1.001", greys(0.25, 1.001), (0, 255)),
    ("floats of 64 and 191", greys(64, 191), (0, 255)),
    ("integers of 64 and 191", greys(64, 191, np.int64), (64, 191)),
    ("a mask of integers", greys(0, 1, np.uint8), (0, 1)),
    ("a mask of bools", greys(0, 1, bool), (0, 255)),
):
    seen = written(picture)
    print(f"{name}: {seen[0]} to {seen[1]} of 255")
    assert max(abs(a - b) for a, b in zip(seen, expected)) <= 1, f"expected {expected}"
PYTHON
