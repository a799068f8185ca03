"""Every error of the product, in one tree, and its one way onto the wire.

CouncilError
├── RetryableError            the same call may succeed on another node, or later
│   ├── NodeUnreachableError      node_unreachable    502   no connection, or it broke before an answer
│   │   └── UntrustedPeerError        untrusted_peer      502   what answers there shows a wrong certificate
│   ├── NodeFrozenError           node_frozen         504   connected, but silent beyond the limit
│   ├── NodeDrainingError         node_draining       503   the node is stopping; no attempt is burnt
│   ├── PreemptedError            preempted           503   it made room for interactive work; not burnt
│   ├── QueueFullError            queue_full          503   a bounded queue is full; Retry-After is set
│   ├── EngineUnavailableError    engine_unavailable  503   the engine behind a node does not answer
│   ├── EngineBusyError           engine_busy         503   the engine refused for load
│   ├── EngineFailedError         engine_failed       502   the engine reported a failure of its own
│   ├── OutOfMemoryError          out_of_memory       507   the model does not fit there
│   ├── StreamCutError            stream_cut          502   the stream ended without its last message
│   ├── FirstTokenTimeoutError    first_token_timeout 504
│   ├── StallTimeoutError         stall_timeout       504
│   ├── LoadTimeoutError          load_timeout        504
│   ├── QueueTimeoutError         queue_timeout       504
│   ├── CapReachedError           cap_reached         503   background work has spent what a day may cost
│   ├── DownloadFailedError       download_failed     502   the model hub is away, or sent another file
│   ├── StorageBusyError          storage_busy        503   the database is locked by somebody else
│   └── StorageFullError          storage_full        507   no space left where the data lives
├── RequestError              the caller must change something
│   ├── InvalidRequestError       invalid_request     422
│   ├── MalformedBodyError        malformed_body      400
│   ├── PayloadTooLargeError      payload_too_large   413
│   ├── HeadersTooLargeError      headers_too_large   431
│   ├── NotAcceptableError        not_acceptable      406
│   ├── UnauthorizedError         unauthorized        401
│   ├── ForbiddenError            forbidden           403
│   ├── TooManyAttemptsError      too_many_attempts   429   wrong keys from this address; Retry-After is set
│   ├── NotFoundError             not_found           404
│   ├── ModelNotFoundError        model_not_found     404   this node or engine has no such model
│   ├── ConflictError             conflict            409
│   ├── ModelUnavailableError     model_unavailable   409   no node of the cluster has the model
│   ├── ContextOverflowError      context_overflow    413   the prompt does not fit the slot's context
│   ├── GenerationTimeoutError    generation_timeout  504   it ran, and took longer than allowed
│   ├── QuorumNotMetError         quorum_not_met      502   too few opinions for a council
│   ├── ModelOutputError          invalid_output      502   the model's answer broke its schema
│   ├── EmptyAnswerError          empty_answer        502   the model ended without a word
│   ├── NotSupportedError         not_supported       501
│   ├── CancelledCallError        cancelled           499
│   └── SettingsError             invalid_settings    500
└── InternalError             internal_error      500   a fault of ours; the log has the details
"""

from __future__ import annotations

from typing import Any, ClassVar

PROBLEM_MEDIA_TYPE = "application/problem+json"


class CouncilError(Exception):
    """Root of the tree. `detail` says what happened, to whom, and what to try.

    `node` and `model` name the place where known; `retry_after_s` becomes the `Retry-After` header.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong"

    def __init__(
        self,
        detail: str = "",
        *,
        node: str | None = None,
        model: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.node = node
        self.model = model
        self.retry_after_s = retry_after_s

    def to_problem(self) -> dict[str, Any]:
        """The body of `application/problem+json` (RFC 9457) with our `code`, `node` and `model`."""
        problem: dict[str, Any] = {
            "type": f"urn:lan-council:error:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.node is not None:
            problem["node"] = self.node
        if self.model is not None:
            problem["model"] = self.model
        if self.retry_after_s is not None:
            problem["retry_after_s"] = self.retry_after_s
        return problem

    @property
    def headers(self) -> dict[str, str]:
        if self.retry_after_s is None:
            return {}
        return {"Retry-After": str(max(1, round(self.retry_after_s)))}


class RetryableError(CouncilError):
    code, status, title = "retry", 503, "Try again"


class NodeUnreachableError(RetryableError):
    code, status, title = "node_unreachable", 502, "The node cannot be reached"


class UntrustedPeerError(NodeUnreachableError):
    code, status, title = "untrusted_peer", 502, "The certificate is not the expected one"


class NodeFrozenError(RetryableError):
    code, status, title = "node_frozen", 504, "The node went silent"


class NodeDrainingError(RetryableError):
    code, status, title = "node_draining", 503, "The node is stopping"


class PreemptedError(RetryableError):
    code, status, title = "preempted", 503, "Interrupted for interactive work"


class QueueFullError(RetryableError):
    code, status, title = "queue_full", 503, "The queue is full"


class EngineUnavailableError(RetryableError):
    code, status, title = "engine_unavailable", 503, "The engine does not answer"


class EngineBusyError(RetryableError):
    code, status, title = "engine_busy", 503, "The engine is busy"


class EngineFailedError(RetryableError):
    code, status, title = "engine_failed", 502, "The engine failed"


class OutOfMemoryError(RetryableError):
    code, status, title = "out_of_memory", 507, "The model does not fit in memory"


class StreamCutError(RetryableError):
    code, status, title = "stream_cut", 502, "The answer was cut off"


class FirstTokenTimeoutError(RetryableError):
    code, status, title = "first_token_timeout", 504, "No first token in time"


class StallTimeoutError(RetryableError):
    code, status, title = "stall_timeout", 504, "The answer stopped arriving"


class LoadTimeoutError(RetryableError):
    code, status, title = "load_timeout", 504, "The model took too long to load"


class QueueTimeoutError(RetryableError):
    code, status, title = "queue_timeout", 504, "The call waited too long for a slot"


class CapReachedError(RetryableError):
    code, status, title = "cap_reached", 503, "The daily limit is reached"


class DownloadFailedError(RetryableError):
    code, status, title = "download_failed", 502, "The model could not be fetched"


class StorageBusyError(RetryableError):
    code, status, title = "storage_busy", 503, "The database is busy"


class StorageFullError(RetryableError):
    code, status, title = "storage_full", 507, "The disk is full or not writable"


class RequestError(CouncilError):
    code, status, title = "request", 400, "The request cannot be served"


class InvalidRequestError(RequestError):
    code, status, title = "invalid_request", 422, "The request is not valid"


class MalformedBodyError(RequestError):
    code, status, title = "malformed_body", 400, "The body cannot be read"


class PayloadTooLargeError(RequestError):
    code, status, title = "payload_too_large", 413, "The request is too large"


class HeadersTooLargeError(RequestError):
    code, status, title = "headers_too_large", 431, "The headers are too large"


class NotAcceptableError(RequestError):
    code, status, title = "not_acceptable", 406, "Not available in that form"


class UnauthorizedError(RequestError):
    code, status, title = "unauthorized", 401, "A key is required"


class ForbiddenError(RequestError):
    code, status, title = "forbidden", 403, "Not allowed"


class TooManyAttemptsError(RequestError):
    code, status, title = "too_many_attempts", 429, "Too many wrong keys"


class NotFoundError(RequestError):
    code, status, title = "not_found", 404, "Not found"


class ModelNotFoundError(RequestError):
    code, status, title = "model_not_found", 404, "The model is not there"


class ConflictError(RequestError):
    code, status, title = "conflict", 409, "Not possible in this state"


class ModelUnavailableError(RequestError):
    code, status, title = "model_unavailable", 409, "No node has the model"


class ContextOverflowError(RequestError):
    code, status, title = "context_overflow", 413, "The prompt does not fit the context"


class GenerationTimeoutError(RequestError):
    code, status, title = "generation_timeout", 504, "The generation took too long"


class QuorumNotMetError(RequestError):
    code, status, title = "quorum_not_met", 502, "Too few agents answered"


class ModelOutputError(RequestError):
    code, status, title = "invalid_output", 502, "The model's answer has the wrong form"


class EmptyAnswerError(RequestError):
    code, status, title = "empty_answer", 502, "The model answered nothing"


class NotSupportedError(RequestError):
    code, status, title = "not_supported", 501, "Not supported here"


class CancelledCallError(RequestError):
    code, status, title = "cancelled", 499, "Cancelled"


class SettingsError(RequestError):
    code, status, title = "invalid_settings", 500, "The settings are not valid"


class InternalError(CouncilError):
    code, status, title = "internal_error", 500, "An internal error"


def _leaves(root: type[CouncilError]) -> dict[str, type[CouncilError]]:
    found: dict[str, type[CouncilError]] = {}
    for child in root.__subclasses__():
        found[child.code] = child
        found.update(_leaves(child))
    return found


BY_CODE: dict[str, type[CouncilError]] = _leaves(CouncilError)


def from_problem(problem: object, *, node: str | None = None) -> CouncilError:
    """Rebuild the error that the other side sent; an unknown code becomes an `EngineFailedError`.

    `node` fills in the name where the problem has none: a node does not always know what it is called.
    """
    if not isinstance(problem, dict):
        return EngineFailedError("the node sent an error that cannot be read", node=node)
    kind = BY_CODE.get(str(problem.get("code")), EngineFailedError)
    retry_after = problem.get("retry_after_s")
    return kind(
        str(problem.get("detail") or problem.get("title") or kind.title),
        node=node or problem.get("node"),
        model=problem.get("model"),
        retry_after_s=float(retry_after) if isinstance(retry_after, int | float) else None,
    )
