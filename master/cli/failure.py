"""What went wrong, in one line, and what to type: every error of the command ends here."""

from __future__ import annotations

from enum import IntEnum

from common.errors import CouncilError


class ExitCode(IntEnum):
    """The exit codes of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    DEGRADED = 3
    INTERRUPTED = 130


class CommandFailedError(Exception):
    """Ends a command: `message` says what happened, `hint` what to try, `exit_code` what scripts see."""

    def __init__(self, message: str, *, hint: str | None = None, exit_code: int = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


class UsageFailedError(CommandFailedError):
    """The command line, or what it names, cannot be used: exit code 2."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint, exit_code=ExitCode.USAGE)


class NoMasterError(CommandFailedError):
    """Nothing that could be asked listens at the address."""

    def __init__(self, url: str, reason: str | None = None) -> None:
        told = f" ({reason})" if reason else ""
        super().__init__(
            f"no master answers at {url}{told}",
            hint="start one with `council up`, or name another with --url or COUNCIL_URL",
        )
        self.url = url


_MODELS_HINT = "`council models list` shows what the cluster has; `council models pull MODEL` adds one"
_HINTS = {
    "model_unavailable": _MODELS_HINT,
    "model_not_found": _MODELS_HINT,
    "unauthorized": "give the master's key with --key or COUNCIL_KEY",
    "forbidden": "this key may not do that; give another with --key or COUNCIL_KEY",
    "quorum_not_met": "`council doctor` shows which nodes and engines answer; --quorum N asks for fewer",
    "engine_unavailable": "`council doctor` shows which nodes and engines answer",
    "node_unreachable": "`council worker list` shows the nodes; is the program running on that PC?",
    "queue_full": "try again in a moment",
    "context_overflow": "shorten the question, or raise COUNCIL_NODE_CONTEXT on the node",
    "storage_full": "free some space, or choose another folder with --data-dir",
    "payload_too_large": "shorten the question",
    "not_supported": "`council models get` fetches a GGUF file, `council models pull` asks the node's engine",
}
_USAGE_CODES = frozenset({"invalid_request", "malformed_body", "payload_too_large"})


def from_council_error(error: CouncilError) -> CommandFailedError:
    """One of the product's errors as the end of a command, with the place it happened at."""
    place = ", ".join(
        f"{word} {name}"
        for word, name in (("node", error.node), ("model", error.model))
        if name and name not in error.detail
    )
    return CommandFailedError(
        f"{error.detail} ({place})" if place else error.detail,
        hint=_HINTS.get(error.code),
        exit_code=ExitCode.USAGE if error.code in _USAGE_CODES else ExitCode.FAILED,
    )


def describe_error(error: object) -> str:
    """The line for an `error` field on the wire: a problem, a plain text, or nothing."""
    if isinstance(error, dict):
        return str(error.get("detail") or error.get("title") or error.get("code") or "unknown error")
    return str(error) if error else "unknown error"
