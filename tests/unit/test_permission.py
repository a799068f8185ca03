"""What each path asks of its caller."""

from __future__ import annotations

import pytest

from master.api.permission import Need, needed


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "BREW"])
def test_a_route_that_nobody_thought_of_is_an_administrators(method: str) -> None:
    assert needed(method, "/api/new/thing") is Need.ADMIN
    assert needed(method, "/api/council/sessionsx") is Need.ADMIN
    assert needed(method, "/api/conversations/x") is Need.PERSON
    assert needed(method, "/api/council/sessions/x") is Need.SESSION


@pytest.mark.parametrize(
    "path",
    [
        "/api/council/sessions",
        "/api/council/sessionsx",
        "/api/council/models",
        "/api/keys",
        "/api/conversations",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "WEBSOCKET"])
def test_other_masters_need_nothing_but_sessions(method: str, path: str) -> None:
    assert needed(method, path) is not Need.SESSION


@pytest.mark.parametrize(
    "path", ["/health/", "//health", "/HEALTH", "/health/x", "/assets", "/api/login/", "/a"]
)
def test_what_only_looks_open_is_not(path: str) -> None:
    assert needed("GET", path) is not Need.NOBODY


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "WEBSOCKET"])
def test_keys_and_tokens_are_seen_by_administrators_alone(method: str) -> None:
    for path in ("/api/keys", "/api/keys/x", "/api/cluster/tokens"):
        assert needed(method, path) is Need.ADMIN
