"""`Settings`: every choice that a server takes, and its limits."""

from dataclasses import dataclass
from ipaddress import ip_address

from colbertz.errors import UserError, check_integer, check_number


@dataclass(frozen=True)
class Settings:
    """What a server serves, to whom, and how much of it.

    Attributes:
        host: the address to listen on.
        port: 0 for any free port.
        open_to_all: serve addresses beyond this machine without tokens.
        cors_origins: web pages' origins whose scripts may call the server; none by default.
        trusted_proxy: the address of a proxy whose `X-Forwarded-For` says who the client is; None to believe nobody.
        max_body_bytes: of a request's body.
        max_values: numbers, strings, lists and objects in a body; embeddings in base64 are one.
        max_texts: documents, texts or document ids in a request.
        max_queries: queries in a search.
        max_tokens: tokens of all embeddings in a request; of texts, the most that they can have.
        max_top_k: hits of a query.
        max_held_bytes: of the bodies of all requests that are being read or worked on.
        max_in_flight: requests that are worked on at the same time; more are answered with 503.
        max_queued: writes that wait for an index; more are answered with 503.
        rate: requests a second of one client, 0 for any number; more are answered with 429.
        burst: requests that a client may make at once before `rate` counts.
        header_seconds: until the headers of a request have arrived, from the beginning of a connection.
        body_seconds: between two pieces of a body.
        request_seconds: for the whole body to arrive, and again for the encoding of texts.
        filter_seconds: until a filter is stopped.
        wait_seconds: the longest that `?wait=true` waits.
        drain_seconds: for requests and queued writes, when the server is told to end.

    Raises:
        UserError: for a limit that is not positive.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    open_to_all: bool = False
    cors_origins: tuple[str, ...] = ()
    trusted_proxy: str | None = None
    max_body_bytes: int = 100 << 20
    max_values: int = 2_000_000
    max_texts: int = 10_000
    max_queries: int = 256
    max_tokens: int = 1_000_000
    max_top_k: int = 1_000
    max_held_bytes: int = 1 << 30
    max_in_flight: int = 100
    max_queued: int = 1_000
    rate: float = 0.0
    burst: int = 100
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    request_seconds: float = 300.0
    filter_seconds: float = 10.0
    wait_seconds: float = 60.0
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in (
            "max_body_bytes",
            "max_held_bytes",
            "max_values",
            "max_texts",
            "max_queries",
            "max_tokens",
            "max_top_k",
            "max_in_flight",
            "burst",
        ):
            check_integer(name, getattr(self, name), 1)
        for name in ("header_seconds", "body_seconds", "request_seconds", "filter_seconds"):
            check_number(name, getattr(self, name), 0.001)
        for name in ("rate", "wait_seconds", "drain_seconds"):
            check_number(name, getattr(self, name), 0)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check_exposure(self, has_tokens: bool) -> None:
        """Refuse to serve other machines without tokens.

        Raises:
            UserError: if `host` is reachable from elsewhere, there are no tokens, and `open_to_all` does not allow it.
        """
        if not (self.is_local or has_tokens or self.open_to_all):
            raise UserError(
                f"{self.host} can be reached from other machines, and there are no tokens: anyone could read and delete"
                " the indexes; give tokens with --tokens FILE or COLBERTZ_TOKENS, or say --open-to-all"
            )
