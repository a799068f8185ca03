"""Every error that leaves the API, as `application/problem+json`: the one place where that is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from common.errors import (
    PROBLEM_MEDIA_TYPE,
    ConflictError,
    CouncilError,
    InternalError,
    InvalidRequestError,
    MalformedBodyError,
    NotFoundError,
)
from common.logs import get_logger

NOT_SENT_AS_JSON = "send the body as JSON, with `Content-Type: application/json`"
_log = get_logger(__name__)


def problem_response(error: CouncilError) -> JSONResponse:
    return JSONResponse(
        error.to_problem(), status_code=error.status, media_type=PROBLEM_MEDIA_TYPE, headers=error.headers
    )


def install(app: FastAPI) -> None:
    """Translate our errors, FastAPI's validation and Starlette's own into problems."""

    @app.exception_handler(CouncilError)
    async def ours(_request: Request, error: CouncilError) -> JSONResponse:
        if error.status >= 500:
            _log.warning("request failed", code=error.code, detail=error.detail)
        return problem_response(error)

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem_response(_explain(error, request.headers.get("content-type", "")))

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> JSONResponse:
        return problem_response(_from_status(error))

    @app.exception_handler(Exception)
    async def unexpected(_request: Request, error: Exception) -> JSONResponse:
        _log.error("request crashed", exc_info=error)
        return problem_response(InternalError("the master failed; its log has the details"))


def _explain(error: RequestValidationError, content_type: str) -> CouncilError:
    for one in error.errors():
        if one["loc"] == ("body",) and "json" not in content_type:
            return InvalidRequestError(NOT_SENT_AS_JSON)
        if one["type"] == "json_invalid":
            return MalformedBodyError(f"the body is not valid JSON: {one.get('ctx', {}).get('error', '')}")
    return InvalidRequestError(in_words(error.errors()))


def in_words(found: Iterable[Mapping[str, Any]]) -> str:
    """What Pydantic found wrong, each with where it stands in the body."""
    parts = []
    for one in found:
        where = ".".join(str(part) for part in one["loc"] if part not in ("body", "query", "path"))
        words = str(one["msg"]).removeprefix("Value error, ")  # Pydantic's, before those of our own checks
        parts.append(f"{where}: {words}" if where else words)
    return "; ".join(dict.fromkeys(parts))


def _from_status(error: HTTPException) -> CouncilError:
    detail = str(error.detail)
    if isinstance(error.__cause__, CouncilError):  # FastAPI wraps what reading the body raised
        return error.__cause__
    if error.status_code == 404:
        return NotFoundError("no such address; /openapi.json lists what there is")
    if error.status_code == 400:
        return MalformedBodyError("the body cannot be read; send JSON in UTF-8")
    known: dict[int, type[CouncilError]] = {409: ConflictError, 422: InvalidRequestError}
    if error.status_code in known:
        return known[error.status_code](detail)
    return _Foreign(error.status_code, detail)


class _Foreign(CouncilError):
    """A status that only Starlette raises (405 …)."""

    code = "http_error"

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self._status = status

    def to_problem(self) -> dict[str, Any]:
        return {**super().to_problem(), "status": self._status, "title": self.detail}

    @property
    def status(self) -> int:  # type: ignore[override]  # a class constant everywhere else
        return self._status
