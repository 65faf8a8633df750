"""An index: embeddings of documents on disk, beside their ids, texts and metadata, and the search over them.

It takes embeddings and knows nothing of the model that made them; `colbertz.Searcher` joins the two.
"""

from colbertz.index.index import Hit, Index

__all__ = ["Hit", "Index"]
