"""What client and background process say to each other: one JSON object a line, over a Unix socket.

The client sends one request and reads messages until the answer, the last one, and closes the connection. The request:

    {"protocol": 1, "code": "0.1.0+5f…", "action": "search", "request": {…}, "wait_s": 1.5}

The messages, each with one field:

    {"working": true}                    the process is alive; sent when there was nothing else to say for a while
    {"progress": [done, total, "what"]}  how far it is with bringing the index up to date
    {"answer": {…}}                      the answer
    {"refused": "…"}                     the user asked for something that cannot be; the sentence says what
    {"failed": "…"}                      it cannot answer: the client has to do without it
    {"other_code": "leaving"}            it runs other code than the client, which was replaced on the disk: it leaves
    {"other_code": "outdated client"}    it runs what is on the disk, and the client does not

The fields `protocol` and `code` of the request, the message `other_code` and the action `leave` are understood by every
version.
"""

import json
import socket
import struct
import sys
from typing import Any

PROTOCOL = 1
Message = dict[str, Any]
# Bytes of the longest request and of the longest message to a client.
LONGEST_REQUEST = 1 << 20
LONGEST_MESSAGE = 1 << 26
_CHUNK = 1 << 16
# macOS: the option that gives the user at the other end (sys/un.h), and the layout of its answer (sys/ucred.h).
_SOL_LOCAL = 0
_LOCAL_PEERCRED = 1
_XUCRED = struct.Struct("IIh16I")


class WireError(Exception):
    """The other side ended the connection, or sent something that is not of this protocol."""


class NoReply(WireError):
    """The other side ended the connection without having sent anything."""


class Lines:
    """Reads messages from a connection, as far as the connection's timeout allows."""

    def __init__(self, connection: socket.socket, longest: int) -> None:
        self._connection = connection
        self._longest = longest
        self._read = bytearray()
        self._any = False

    def next(self) -> Message:
        """The next message.

        Raises:
            WireError: if the connection ended, or the line is too long or no JSON object.
            TimeoutError: if the connection's timeout passed without a byte.
        """
        while (end := self._read.find(b"\n")) < 0:
            if len(self._read) > self._longest:
                raise WireError(f"a message of more than {self._longest} bytes")
            chunk = self._connection.recv(_CHUNK)
            if not chunk:
                raise (WireError if self._any else NoReply)("the other side closed the connection")
            self._any = True
            self._read += chunk
        line = bytes(self._read[:end])
        del self._read[: end + 1]
        try:
            message = json.loads(line)
        except ValueError as error:
            raise WireError(f"not JSON: {line[:80]!r}") from error
        if not isinstance(message, dict):
            raise WireError(f"not a JSON object: {line[:80]!r}")
        return message


def send(connection: socket.socket, message: Message) -> None:
    """Send one message."""
    connection.sendall(json.dumps(message).encode() + b"\n")


def peer_user(connection: socket.socket) -> int | None:
    """The number of the user at the other end; None where the system does not tell."""
    if hasattr(socket, "SO_PEERCRED"):
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return struct.unpack("3i", credentials)[1]
    if sys.platform == "darwin":
        return _XUCRED.unpack(connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size))[1]
    return None
