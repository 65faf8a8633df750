"""Train a model: `python train.py --config configs/demo.yaml`, also under `torchrun`. The same as `colbertz train`."""

import sys

from colbertz.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
