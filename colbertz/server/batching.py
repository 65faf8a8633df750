"""Encoding the texts of concurrent requests together: queries first, and documents in small batches between them.

Where queries never stop coming, documents have a turn when they have waited for a while: writes must not starve.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from colbertz.errors import UserError
from colbertz.models import ColBERT, Tokens
from colbertz.models.encoding import batches_by_length, require_finite
from colbertz.models.pooling import check_pooling, pool_tokens
from colbertz.ragged import Ragged

# Milliseconds that a query waits for others to be encoded with it.
WAIT_MS = 2.0
# Tokens of one forward pass.
MAX_TOKENS = 2048
# Tokens of documents in one forward pass while there are queries: a query that comes meanwhile waits until it ends.
_TOKENS_BESIDE_QUERIES = 384
# Milliseconds after which a batch of documents goes before the queries that wait.
PATIENCE_MS = 25.0
# How much more time queries get than documents while there are both.
_QUERIES_SHARE = 3
# For how many seconds after a query others are expected.
_QUERIES_EXPECTED = 1.0


@dataclass(eq=False)
class _Request:
    """Texts of one call.

    Attributes:
        tokens: of all texts.
        ends: of documents, how many tokens at the start and at the end pooling keeps.
        pool_factor: of documents.
        batches: the positions of texts that are encoded together and are not encoded yet, int64 each.
        future: gets the embeddings.
        since: when it came, on the monotonic clock.
        embeddings: of each text, once they are computed.
    """

    tokens: Tokens
    ends: tuple[int, int]
    pool_factor: int
    batches: deque[Tensor]
    future: "Future[Ragged]"
    since: float
    embeddings: dict[int, Tensor] = field(default_factory=dict)

    def finish(self, positions: Tensor, embeddings: Ragged) -> None:
        """Store the embeddings of some texts, and give all to the future once there are all."""
        if self.pool_factor > 1:
            embeddings = pool_tokens(embeddings, self.pool_factor, *self.ends)
        self.embeddings.update(zip(positions.tolist(), embeddings))
        if len(self.embeddings) == len(self.tokens):
            self.future.set_result(Ragged.from_list(self.embeddings[i] for i in range(len(self.tokens))))


# Some texts of a request.
_Part = tuple[_Request, Tensor]


class EncodeBatcher:
    """Encodes texts with a model in one thread of its own, for any number of threads.

    Attributes:
        model: the model.
        location: where the model was loaded from, which indexes store; None if that is not known.
    """

    def __init__(
        self,
        model: ColBERT,
        max_tokens: int = MAX_TOKENS,
        wait_ms: float = WAIT_MS,
        location: str | None = None,
        patience_ms: float = PATIENCE_MS,
    ) -> None:
        """Start the thread.

        Args:
            model: encodes.
            max_tokens: tokens in one forward pass, except where one text has more.
            wait_ms: milliseconds that the first query of a batch waits for others.
            location: see the attribute.
            patience_ms: milliseconds after which documents have a turn however many queries there are, unless the batch
                before took so long that more than a quarter of the time would be theirs.
        """
        self.model = model
        self.location = location
        self._max_tokens, self._wait, self._patience = max_tokens, wait_ms / 1000, patience_ms / 1000
        self._arrived = threading.Condition()
        self._queries: deque[_Request] = deque()
        self._documents: deque[_Request] = deque()
        self._closing = False
        self._last_query = self._documents_due = -math.inf
        self._documents_were_last = False
        self._thread = threading.Thread(target=self._run, name="encoding", daemon=True)
        self._thread.start()

    def encode(self, texts: Sequence[str], is_query: bool, pool_factor: int = 1) -> "Future[Ragged]":
        """The float32 embeddings of texts, (num_tokens, E), once they are computed.

        Args:
            texts: at least one.
            is_query: whether they are queries or documents.
            pool_factor: of documents, see `ColBERT.encode_document`.

        Raises:
            TypeError, UserError: for texts that cannot be tokenised. The future raises what the model raises.
        """
        if not len(texts):
            raise UserError("there are no texts to encode")
        check_pooling(pool_factor)
        tokens = self.model.tokenizer.tokenise(list(texts), "query" if is_query else "document")
        ends = (0, 0) if pool_factor == 1 else self.model.tokenizer.tokens_of_every_document()
        size = self._max_tokens if is_query else min(self._max_tokens, _TOKENS_BESIDE_QUERIES)
        batches = deque(batches_by_length(tokens.ids, self.model.device, size))
        request = _Request(tokens, ends, pool_factor, batches, Future(), time.monotonic())
        with self._arrived:
            if self._closing:
                raise UserError("the server is shutting down")
            (self._queries if is_query else self._documents).append(request)
            if is_query:
                self._last_query = request.since
            self._arrived.notify()
        return request.future

    def close(self) -> None:
        """End the thread. What is not encoded yet is cancelled."""
        with self._arrived:
            self._closing = True
            self._arrived.notify()
        self._thread.join()
        for request in (*self._queries, *self._documents):
            request.future.cancel()

    def _run(self) -> None:
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._queries or self._documents or self._closing)
                if self._closing:
                    return
                if self._queries:
                    left = self._queries[0].since + self._wait - time.monotonic()
                    self._arrived.wait_for(lambda: self._closing or self._is_full(), max(0.0, left))
                parts = self._next()
            if parts:  # none if all that is left was cancelled, or has failed
                began = time.monotonic()
                self._encode(parts)
                if self._documents_were_last:
                    ended = time.monotonic()
                    self._documents_due = ended + max(self._patience, _QUERIES_SHARE * (ended - began))

    def _next(self) -> list[_Part]:
        """The texts to encode now: queries, or documents if there are none or the documents have waited long enough."""
        now = time.monotonic()
        if self._queries and not self._documents_are_due(now):
            self._documents_were_last = False
            return _next_parts(self._queries, self._max_tokens)
        self._documents_were_last = True
        beside = bool(self._queries) or now < self._last_query + _QUERIES_EXPECTED
        return _next_parts(
            self._documents, min(self._max_tokens, _TOKENS_BESIDE_QUERIES) if beside else self._max_tokens
        )

    def _documents_are_due(self, now: float) -> bool:
        """Whether documents go before the queries that wait; never twice in a row."""
        if not self._documents or self._documents_were_last:
            return False
        return now >= max(self._documents_due, self._documents[0].since + self._patience)

    def _is_full(self) -> bool:
        return sum(len(request.tokens.ids.values) for request in self._queries) >= self._max_tokens

    def _encode(self, parts: list[_Part]) -> None:
        """Encode some texts; if that fails, those of each request for itself, so that only one of them fails."""
        try:
            tokens = Tokens.cat([request.tokens[positions] for request, positions in parts])
            embeddings = require_finite(self.model.embed(tokens))
            first = 0
            for request, positions in parts:
                request.finish(positions, embeddings[first : first + len(positions)])
                first += len(positions)
        except Exception as error:  # noqa: BLE001
            if len(parts) > 1:
                for part in parts:
                    self._encode([part])
                return
            request = parts[0][0]
            request.batches.clear()
            if not request.future.done():
                request.future.set_exception(error)


def _next_parts(requests: deque[_Request], max_tokens: int) -> list[_Part]:
    """Take some texts of each request in turn, so that a small request does not wait for all of a large one."""
    parts: list[_Part] = []
    num_tokens = 0
    while requests:
        request = requests[0]
        if not request.batches or request.future.cancelled():
            requests.popleft()
            continue
        num_tokens += int(request.tokens.ids.lengths[request.batches[0]].sum())
        if parts and num_tokens > max_tokens:
            break
        parts.append((request, request.batches.popleft()))
        requests.rotate(-1)
    return parts
