"""The nano recipe: a small ColBERT from nothing but pairs of texts, in the paper's three stages (docs/recipe.md).

settings.py    what a run of the recipe depends on
run.py         `colbertz nano` from top to bottom
prepare.py     the data of all stages, and a tokenizer
cloze.py       questions made of sentences
stages.py      the steps, from files to files: a stage of training, mined negatives, a teacher's scores
judge.py       nDCG@10 of models and of BM25 on the collections, searched exactly and with an index
card.py        the model card
"""
