"""The ids, texts, metadata and embeddings of an index, for other engines.

Each target is one file with `write(source, out, name)`, which imports the engine's package when it runs. `batches.py`
reads the index some documents at a time, so that memory does not grow with the index. No model is loaded.
"""

from colbertz.integrations.export.bits import sign_bits
from colbertz.integrations.export.fixed_dimensional import FixedDimensional
from colbertz.integrations.export.vectors import export_vectors

__all__ = ["FixedDimensional", "export_vectors", "sign_bits"]
