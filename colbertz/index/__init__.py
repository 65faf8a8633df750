"""An index: coded embeddings of documents on disk, beside their ids, texts and metadata, and the search over them.

    build.py     from a stream of embeddings to files          change.py    add, delete, update, compact
    codec.py     centroids and residuals; kmeans.py finds them  write.py     lock, commit, clean-up
    search.py    the cascade, and brute force                   layout.py    names of files, the manifest
    segment.py, snapshot.py   what is open                      documents.py ids, texts, metadata in SQLite
    copying.py   what compacting and converting share          interop/     other programs' indexes
    filters.py, fulltext.py, fusion.py   conditions, words, rankings made one

It takes embeddings and knows nothing of the model that made them; `colbertz.Searcher` joins the two.
"""

from colbertz.index.index import Index
from colbertz.index.search.query import Hit

__all__ = ["Hit", "Index"]
