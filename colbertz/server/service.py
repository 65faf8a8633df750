"""`Service`: what the routes work with, and the little that several of them do in the same way."""

from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Request

from colbertz.errors import UserError
from colbertz.index.search.checks import check_texts
from colbertz.ragged import Ragged
from colbertz.server.batching import EncodeBatcher
from colbertz.server.errors import ModelMissing, UnknownIndex
from colbertz.server.fields import IndexName
from colbertz.server.metrics import Metrics
from colbertz.server.refusals import Refusal, bad_request, unavailable
from colbertz.server.root import Root
from colbertz.server.served import ServedIndex
from colbertz.server.settings import Settings
from colbertz.server.warming import WarmUp


@dataclass(frozen=True)
class Service:
    """The indexes of a server, its model and its settings.

    Attributes:
        encoder: encodes with the model; None without one.
        model_name: the model as it was given, a directory or a hub id.
        warming: what happens before the server is ready.
    """

    root: Root
    encoder: EncodeBatcher | None
    model_name: str | None
    settings: Settings
    metrics: Metrics
    warming: WarmUp

    def require_encoder(self) -> EncodeBatcher:
        """The model.

        Raises:
            ModelMissing: if the server was started without one.
        """
        if self.encoder is None:
            raise ModelMissing("no model is loaded; start the server with --model MODEL, or send embeddings")
        return self.encoder

    def encode(self, texts: list[str], *, is_query: bool, pool_factor: int | None = None) -> Ragged:
        """The embeddings of texts, encoded together with those of other requests.

        Raises:
            ModelMissing: if the server has no model.
            UserError: for an empty query.
            Refusal: 400 for too many or too long texts, 500 for damaged weights of the model, 503 if it takes too long.
        """
        encoder = self.require_encoder()
        self.check_texts(texts)
        if is_query:
            check_texts(texts)
        future = encoder.encode(texts, is_query, 1 if is_query else pool_factor or 1)
        try:
            return future.result(self.settings.request_seconds)
        except TimeoutError:
            future.cancel()
            raise unavailable(f"encoding took more than {self.settings.request_seconds:g} seconds") from None
        except CancelledError:
            raise unavailable("the server is shutting down; send the request again once it runs") from None
        except UserError as error:  # the texts were tokenised, so it is the model that cannot be used
            raise Refusal(500, "MODEL_ERROR", str(error)) from error

    def check_texts(self, texts: list[str]) -> None:
        """Refuse more texts, or more tokens, than a request may have.

        Raises:
            Refusal: 400.
        """
        self.check_number("texts", len(texts), self.settings.max_texts)
        longest = self.require_encoder().model.settings.document_length
        # A token stands for a byte at the least, and each text has three special ones.
        tokens = sum(min(len(text.encode("utf-8", "replace")) + 3, longest) for text in texts)
        self.check_number("tokens", tokens, self.settings.max_tokens)

    def check_number(self, name: str, number: int, most: int) -> None:
        """Refuse more of something than a request may have.

        Raises:
            Refusal: 400.
        """
        if number > most:
            raise bad_request(f"a request may have {most:,} {name}, and this one has {number:,}; divide it")


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Services = Annotated[Service, Depends(_service)]
Name = Annotated[IndexName, Path(description="the index's name")]


def _index(name: Name, service: Services) -> ServedIndex:
    try:
        return service.root.index(name)
    except UnknownIndex:
        raise UnknownIndex(f"index {name!r} not found; GET /indices lists those there are") from None


Served = Annotated[ServedIndex, Depends(_index)]
