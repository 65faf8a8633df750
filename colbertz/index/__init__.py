"""An index: coded embeddings of documents on disk, with their ids, texts and metadata, and the search over them.

    index.py     `Index`, the public face
    store/       the files: manifest, segments, snapshots, documents, codec
    write/       build, add, update, delete, compact
    search/      options, the cascade on the CPU and on GPUs, filters, full text, fusion
    interop/     the indexes of other programs

It takes embeddings and knows nothing of the model that made them; `colbertz.Searcher` joins the two.
"""

from colbertz.document import Document
from colbertz.index.index import Index
from colbertz.index.search.hits import Hit
from colbertz.index.search.options import SearchKeywords, SearchOptions
from colbertz.index.write.build import BuildKeywords

__all__ = ["BuildKeywords", "Document", "Hit", "Index", "SearchKeywords", "SearchOptions"]
