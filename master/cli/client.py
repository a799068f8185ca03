"""The master as the command sees it: REST calls whose failures are one line and a hint."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import httpx

from common.errors import from_problem
from common.no_answer import why_no_answer
from common.protocol import LineSplitter
from master.cli import trust
from master.cli.failure import CommandFailedError, NoMasterError, from_council_error

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0


class MasterClient:
    """REST calls to one master. Use it as an async context; every failure is a `CommandFailedError`."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        verify: ssl.SSLContext | bool | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        """`verify`: with what its certificate is checked, as `locate` found; else `trust.verify`."""
        self.url = url.rstrip("/")
        self.key = key
        self.verify = trust.verify(url) if verify is None else verify
        try:
            self._http = httpx.AsyncClient(
                base_url=self.url,
                headers=self.headers,
                timeout=httpx.Timeout(read_timeout_s, connect=CONNECT_TIMEOUT_S),
                trust_env=False,
                verify=self.verify,
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise NoMasterError(url, f"not an address: {error}") from error

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def get(self, path: str, **params: Any) -> Any:
        """The JSON at `path`; parameters that are `None` are left out."""
        return _json(await self.request("GET", path, params=_given(params)))

    async def post(self, path: str, body: object = None, *, headers: Mapping[str, str] | None = None) -> Any:
        return _json(await self.request("POST", path, json=body, headers=headers))

    async def delete(self, path: str, **params: Any) -> None:
        await self.request("DELETE", path, params=_given(params))

    async def text(self, path: str, **params: Any) -> str:
        return (await self.request("GET", path, params=_given(params))).text

    async def lines(self, method: str, path: str, body: object) -> AsyncIterator[str]:
        """The lines of a streamed answer as they come, without a limit on the time between them."""
        splitter = LineSplitter()
        with self._translated():
            async with self._http.stream(
                method, path, json=body, timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
            ) as response:
                if response.status_code >= 400:
                    await response.aread()
                    raise _failure(response)
                async for data in response.aiter_bytes():
                    for line in splitter.feed(data):
                        yield line.decode("utf-8", "replace")
        if splitter.rest:
            yield splitter.rest.decode("utf-8", "replace")

    async def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """One call; a status from 400 up and every fault of the connection is raised."""
        with self._translated():
            response = await self._http.request(method, path, **arguments)
        if response.status_code >= 400:
            raise _failure(response)
        return response

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """The one place where httpx's errors become ours."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise NoMasterError(self.url, why_no_answer(error)) from error
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise NoMasterError(self.url, "an address looks like http://192.168.1.20:8000") from error
        except httpx.TransportError as error:
            if trust.is_untrusted(error):
                raise CommandFailedError(
                    f"the certificate of {self.url} is not trusted here", hint=trust.HINT
                ) from error
            raise NoMasterError(self.url, why_no_answer(error)) from error


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _json(response: httpx.Response) -> Any:
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError as error:
        raise CommandFailedError(
            f"{response.request.url} answered with something that is not JSON",
            hint="is that the address of a council's master? `council doctor` tells",
        ) from error


def _failure(response: httpx.Response) -> CommandFailedError:
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if isinstance(problem, dict) and "code" in problem:
        return from_council_error(from_problem(problem))
    detail = problem.get("detail") if isinstance(problem, dict) else None
    return CommandFailedError(
        f"{response.request.method} {response.request.url} answered {response.status_code}"
        + (f": {detail}" if detail else ""),
        hint="is that the address of a council's master? `council doctor` tells",
    )
