"""Reading JSON strictly: no NaN, no Infinity, no endless nesting, and a message for people if it is not JSON.

Nothing else runs in the process while JSON becomes Python's objects, because that holds the interpreter's lock. A body
of 100 MB of numbers would stop the server for seconds. So values are counted first, without that lock.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
from anyio import to_thread
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

from colbertz.server.refusals import bad_request

# Shorter bodies are not counted: they are read in some milliseconds.
_SHORT = 1 << 18
# Bytes that are counted at a time, so that the copies stay small.
_BLOCK = 1 << 20
# What stands before a comma that divides values, and hardly before one in a text: the end of a number, a string, a list
# or an object, or a blank.
_ENDS = np.isin(np.arange(256), np.frombuffer(b'0123456789"]} \t\r\n', np.uint8))


def count_values(body: bytes) -> int:
    """About how many numbers, strings, lists and objects JSON has, at most: commas in texts may count too."""
    data = np.frombuffer(body, np.uint8)
    count = int(np.count_nonzero(data == ord("["))) + int(np.count_nonzero(data == ord("{")))
    for first in range(0, len(data) - 1, _BLOCK):
        block = data[first : first + _BLOCK + 1]
        count += int(np.count_nonzero(_ENDS[block[:-1]] & (block[1:] == ord(","))))
    return count


class StrictRequest(Request):
    async def json(self) -> Any:
        """The body.

        Raises:
            Refusal: 400 if it is not JSON, is nested more than 200 deep, or has too many values.
        """
        body = await self.body()
        most = self.app.state.service.settings.max_values
        if len(body) > _SHORT and await to_thread.run_sync(count_values, body) > most:
            raise bad_request(
                f"the body has more than {most:,} numbers and other values; send embeddings as base64, or divide it"
            )
        try:
            return from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise bad_request(f"the body is not JSON: {error}") from None


class StrictRoute(APIRoute):
    """A route that reads its body so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return handle_strictly
