"""Whether the server lives and can be used, what it counts, and how it is called."""

import resource
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from colbertz import __version__
from colbertz.display import heatmap
from colbertz.server import schemas
from colbertz.server.errors import UnknownIndex
from colbertz.server.metrics import CONTENT_TYPE
from colbertz.server.refusals import unavailable
from colbertz.server.routes.indices import summary
from colbertz.server.service import Service, Services
from colbertz.server.strict import StrictRoute

router = APIRouter(route_class=StrictRoute, tags=["status"])

_PAGES = Path(__file__).parent.parent / "pages"
_VIEWER = _PAGES / "api.html"
_PAGE = _PAGES / "search.html"
# Nothing of a page comes from elsewhere, and no other page may frame it.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self';"
    " frame-ancestors 'none'"
)


@router.get("/health")
def health(request: Request, service: Services) -> schemas.Health:
    """That the server lives, and its indexes and its model for those who may read."""
    indices, updates, model, folder = [], [], None, ""
    if request.state.may_read:
        folder, model = str(service.root.folder), _model(service)
        for name in service.root.names():
            with suppress(UnknownIndex):  # it was dropped meanwhile
                index = service.root.index(name)
                indices.append(summary(name, index))
                if index.queued:
                    updates.append(schemas.Update(index=name, status="running", stage=f"{index.queued} queued"))
    return schemas.Health(
        status="healthy",
        version=__version__,
        loaded_indices=len(indices),
        index_dir=folder,
        memory_usage_bytes=_memory(),
        indices=indices,
        updates=updates,
        model=model,
    )


@router.get("/", include_in_schema=False, response_model=None)
def home(request: Request, service: Services) -> schemas.Health | HTMLResponse:
    """The page for people in a browser, and what `/health` says for programs, as next-plaid's server."""
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(_search_page(), headers={"Content-Security-Policy": _POLICY})
    return health(request, service)


@router.get("/ready", responses={503: {"model": schemas.Error, "description": "Not now"}})
def ready(service: Services) -> schemas.Ready:
    """That requests can be answered at once: indexes are open, the model is loaded, and kernels are compiled."""
    if not service.warming.is_done:
        raise unavailable("the server compiles its kernels, which it does once after an installation; try again later")
    return schemas.Ready(ready=True)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(service: Services) -> Response:
    """Counters for Prometheus."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)


@router.get("/swagger-ui", include_in_schema=False)
def viewer() -> HTMLResponse:
    """A page that shows the routes, their examples and their answers; it loads nothing from elsewhere."""
    return HTMLResponse(_VIEWER.read_text("utf-8"), headers={"Content-Security-Policy": _POLICY})


@cache
def _search_page() -> str:
    """The page with the heat-map's style and script in it."""
    style, script = (path.read_text("utf-8") for path in (heatmap.STYLE, heatmap.SCRIPT))
    first, second, third = _PAGE.read_text("utf-8").split("/* heat-map */")
    return f"{first}{style}{second}{script}{third}"


def _model(service: Service) -> schemas.ModelInfo | None:
    if service.encoder is None:
        return None
    model = service.encoder.model
    settings = model.settings
    return schemas.ModelInfo(
        name=service.model_name,
        path=service.model_name or "",
        quantized=False,
        embedding_dim=model.embedding_dim,
        query_prefix=settings.query_prefix or "",
        document_prefix=settings.document_prefix or "",
        query_length=settings.query_length,
        document_length=settings.document_length,
        do_query_expansion=settings.do_query_expansion,
    )


def _memory() -> int:
    """Bytes that the process occupies now, or occupied at most where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except FileNotFoundError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * resource.getpagesize()
