"""The same as ``ray-distill train``: ray job submit --working-dir . -- python train.py configs/quickstart.yaml"""

import sys

from ray_distill.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
