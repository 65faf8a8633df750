"""What a server does before it is ready: use each kernel once, so that no client waits until it is compiled."""

import logging
import tempfile
import threading
from concurrent.futures import CancelledError
from pathlib import Path

import torch
from torch.nn.functional import normalize

from colbertz.errors import UserError
from colbertz.index import Index
from colbertz.kernels.cpu.threads import use_one_core
from colbertz.ragged import Ragged
from colbertz.server.batching import EncodeBatcher

logger = logging.getLogger(__name__)

# Of an index that has all stages of a search and is built in a moment.
_DOCUMENTS = 600
_TOKENS = 8
# Of embeddings, where there is no model.
_DIM = 32


class WarmUp:
    """Uses the kernels of encoding, writing and searching in a thread of its own."""

    def __init__(self, encoder: EncodeBatcher | None) -> None:
        """Start the thread."""
        self._encoder = encoder
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="warming up", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait until it is done, for so many seconds at most; whether it is."""
        return self._done.wait(seconds)

    def _run(self) -> None:
        use_one_core()
        try:
            if self._encoder is not None:
                for is_query in (True, False):
                    self._encoder.encode(["warm up"], is_query).result()
            _use_an_index(_DIM if self._encoder is None else self._encoder.model.embedding_dim)
        except (UserError, OSError, CancelledError) as error:  # the server ends, or has no space for temporary files
            logger.warning("the first requests may be slow: %s", error)
        self._done.set()


def _use_an_index(dim: int) -> None:
    """Build, change and search an index of random embeddings."""
    generator = torch.Generator().manual_seed(0)
    tokens = normalize(torch.randn(_DOCUMENTS * _TOKENS, dim, generator=generator), dim=-1)
    embeddings = Ragged.from_lengths(tokens, [_TOKENS] * _DOCUMENTS)
    with tempfile.TemporaryDirectory() as folder:
        index = Index.build(Path(folder) / "index", embeddings, texts=["warm up"] * _DOCUMENTS)
        index.add(embeddings[:2], texts=["warm", "up"])
        index.search(embeddings[:1])
        index.search(embeddings[:1], exact=True)
        index.search_hybrid(embeddings[:1], ["warm"])
