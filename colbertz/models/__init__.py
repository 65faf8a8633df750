"""Encoders and the late-interaction model on top of them.

colbert.py      the model: tokens to embeddings, and the encode functions
tokenizer.py    texts to tokens: prefixes, prompts, query expansion, skiplist
projection.py   the dense layers between the encoder and the embeddings
dtypes.py       bfloat16 where it is fast
backends.py     what a model can run in
encoding.py     batches of texts, and encoding without dropout
ranking.py      the candidates of another engine in the order of their MaxSim
spans.py        the characters of each token
pooling.py      fewer, averaged embeddings for a document
workers.py      encoding on several devices
recorded.py     what an index records of a model
encoders/       the families of encoders, with Hugging Face's configuration keys and tensor names
    base.py         what an encoder is, and the registry of families
    modernbert.py   bert.py     one family each: configuration, module, ONNX graph
    packing.py   attention.py   runs.py   rotary.py   layers.py     what they share
    int8.py         an encoder whose products are computed in 8-bit integers
checkpoint/     reading and writing the directories that other libraries use
    hub.py          a name to a directory
    read.py         a directory to its contents
    layouts.py      where each layout has what
    assemble.py     contents to an encoder, projections and a tokenizer
    save.py         these to a directory
onnx/           the model as an ONNX file
    graph.py        writing a graph, operator by operator
    attention.py    the attention of a graph, in blocks
    export.py       the files
    runtime.py      running them in onnxruntime
"""

from colbertz.models.checkpoint.layouts import CheckpointError
from colbertz.models.colbert import ColBERT
from colbertz.models.encoders.bert import Bert, BertConfig
from colbertz.models.encoders.modernbert import ModernBert, ModernBertConfig
from colbertz.models.encoding import Encoded
from colbertz.models.ranking import Ranked
from colbertz.models.tokenizer import ColBERTSettings, ColBERTTokenizer, Tokens

__all__ = [
    "Bert",
    "BertConfig",
    "CheckpointError",
    "ColBERT",
    "ColBERTSettings",
    "ColBERTTokenizer",
    "Encoded",
    "ModernBert",
    "ModernBertConfig",
    "Ranked",
    "Tokens",
]
