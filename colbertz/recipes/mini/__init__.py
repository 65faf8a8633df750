"""The mini recipe: a ColBERT from a pretrained encoder, in two contrastive stages (docs/mini.md).

settings.py    what a run of the recipe depends on
run.py         `colbertz mini` from top to bottom
start.py       the pretrained encoder with a projection: the model that stage 1 starts from
negatives.py   hard negatives that BM25 finds
average.py     the mean of several models' weights
"""
