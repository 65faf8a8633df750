"""Reading JSON strictly: no NaN, no Infinity, no endless nesting, and a message for people if it is not JSON."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

from colbertz.server.refusals import bad_request


class StrictRequest(Request):
    async def json(self) -> Any:
        """The body.

        Raises:
            Refusal: 400 if it is not JSON, or is nested more than 200 deep.
        """
        try:
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise bad_request(f"the body is not JSON: {error}") from None


class StrictRoute(APIRoute):
    """A route that reads its body so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return handle_strictly
