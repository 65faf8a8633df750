"""What a client or an operator of the server did wrong, or has to wait for; the HTTP side maps these to statuses."""

from colbertz.errors import UserError


class UnknownIndex(UserError, KeyError):
    """A name of no index in the root."""


class IndexExists(UserError):
    """A name that an index in the root has already."""


class UnknownTask(UserError, KeyError):
    """A task id that is not known, or not any more."""


class KeyReused(UserError):
    """A client's key that came with another operation before."""


class DimensionMismatch(UserError):
    """Embeddings of another dimension than that of the index.

    Attributes:
        expected: the dimension of the index.
        actual: that of the embeddings.
    """

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"the embeddings have dimension {actual} and those of the index {expected}")
        self.expected = expected
        self.actual = actual


class ModelMissing(UserError):
    """A text to encode, where the server has no model, or none that fits the index."""


class RootInUse(UserError):
    """A directory that another process serves."""


class DamagedLog(UserError):
    """A log of operations that cannot be read, or that does not belong to its index."""


class Busy(UserError):
    """The queue of an index is full: try again later."""


class StorageFull(Busy):
    """The disk is full: try again once there is space."""


class Closing(Busy):
    """The server is shutting down: try again once it runs."""
