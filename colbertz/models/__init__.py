"""Encoders and the late-interaction model on top of them.

attention.py    self-attention over packed texts, on every device
modernbert.py   bert.py    the two encoders, with Hugging Face's configuration keys and tensor names
tokenizer.py    texts to tokens: prefixes, prompts, query expansion, skiplist
projection.py   the dense layers between the encoder and the embeddings
colbert.py      the model: tokens to embeddings, and the encode functions
checkpoint.py   layouts.py   files.py   reading and writing the directories that other libraries use
onnx_graph.py   onnx_files.py   the model as an ONNX graph, its files, and running them
pooling.py      fewer, averaged embeddings for a document
workers.py      encoding on several devices
"""

from colbertz.models.checkpoint.read import CheckpointError
from colbertz.models.colbert import ColBERT
from colbertz.models.encoders.bert import Bert, BertConfig
from colbertz.models.encoders.modernbert import ModernBert, ModernBertConfig
from colbertz.models.tokenizer import ColBERTSettings, ColBERTTokenizer, Tokens

__all__ = [
    "Bert",
    "BertConfig",
    "CheckpointError",
    "ColBERT",
    "ColBERTSettings",
    "ColBERTTokenizer",
    "ModernBert",
    "ModernBertConfig",
    "Tokens",
]
