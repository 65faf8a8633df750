"""`colbertz train`: hands its options to the training loop, whose configuration has its own parser."""

import argparse

HELP = "train a model as a YAML file says"
EXAMPLES = """\
  colbertz train --config configs/supervised.yaml --dry-run
  colbertz train --config configs/supervised.yaml --optim.lr 1e-5 --output runs/mine
"""
# The configuration's parser reads the arguments, so that a dot can lead into a section: --optim.lr 1e-5.
FORWARDS = True

GUIDE = """\
Train a model as a YAML file says.

 1. Write the settings into a YAML file. This is enough, where pairs.jsonl has a `query` and its `document` a line:

      output: runs/mine
      model: {init: answerdotai/ModernBERT-base}
      data: {train: pairs.jsonl}

    or copy one of the files in configs/ and change it:

      demo.yaml            a small model from random weights, trained on pairs
      unsupervised.yaml    ColBERT-Zero, stage 1: pairs from many sources
      supervised.yaml      stage 2: pairs with hard negatives
      distillation.yaml    stage 3: a teacher's scores
      colbert-zero.yaml    the three stages, one after the other
      nano/                the stages of `colbertz nano`

 2. Check the settings, the data and one step; nothing is written:

      colbertz train --config mine.yaml --dry-run

 3. Train, on one device or on several. The model is in <output>/model. After an interruption, the same command
    continues where it stopped.

      colbertz train --config mine.yaml
      torchrun --nproc-per-node 8 train.py --config mine.yaml

Every setting can also be given on the command line, where a dot leads into a section, and then overrides the file:

      colbertz train --config mine.yaml --optim.lr 1e-5 --batch_size 64
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: `--config FILE` and the settings are options of the configuration's parser."""


def run(args: argparse.Namespace) -> None:
    if {"-h", "--help"} & set(args.forwarded):
        from colbertz.training import config

        print(GUIDE)
        config.parser().print_help()
        return
    from colbertz.training import main

    main(args.forwarded)
