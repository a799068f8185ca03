"""One real PostgreSQL server for a whole run of the tests, however many processes run them.

The first test that asks starts a keeper (`python -m tests.postgres FOLDER PID`), which makes the server in a
folder of its own and ends it when the run is over: when it is told to, or when the run's process is gone.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql

from tests.processes import ROOT

INSTALL = "apt-get install postgresql"
_FOLDER = "COUNCIL_TEST_POSTGRES"  # of the run, for every process of it
_READY = "server.json"
_STOP = "stop"
_READY_S = 60.0
_USER = "council"
_EMPTY = """
DO $$
DECLARE name text;
BEGIN
  SET LOCAL session_replication_role = replica;
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'
  LOOP EXECUTE format('DELETE FROM %I', name); END LOOP;
END $$
"""


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A server that is up. `template` is a database with the tables of today, `rows` what the migrations put
    there: table → rows as JSON.
    """

    host: str
    port: int
    pid: int
    template: str | None = None
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def url(self, database: str) -> str:
        return f"postgresql://{_USER}@{self.host}:{self.port}/{database}"

    @contextmanager
    def database(self, *, empty: bool = False) -> Iterator[str]:
        """The address of a database for one test, with the tables of today unless `empty`."""
        name = f"test_{secrets.token_hex(6)}"
        made = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier("template0" if empty or not self.template else self.template)
        )
        self.execute(made)
        try:
            yield self.url(name)
        finally:
            self.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def empty(self, database: str) -> None:
        """Make a database of `template`'s tables like new: a tenth of the time of a new one."""
        with closing(psycopg.connect(self.url(database))) as connection, connection:
            connection.execute(_EMPTY)
            for table, rows in self.rows.items():
                put = "INSERT INTO {0} SELECT * FROM json_populate_recordset(NULL::{0}, %s::json)"
                connection.execute(sql.SQL(put).format(sql.Identifier(table)), [json.dumps(rows)])

    def execute(self, statement: sql.SQL | sql.Composed, database: str = "postgres") -> list[Any]:
        """Run one statement as the server's owner, outside a transaction; its rows."""
        with closing(psycopg.connect(self.url(database), autocommit=True)) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


def binaries() -> Path | None:
    """The folder of `initdb` and `postgres`: on the PATH, or where systems put it, the newest first."""
    found = shutil.which("postgres")
    if found is not None and shutil.which("initdb", path=str(Path(found).parent)) is not None:
        return Path(found).parent
    places = ("usr/lib/postgresql", "opt/homebrew/opt", "usr/local/opt", "Program Files/PostgreSQL")
    anchor = Path(Path.cwd().anchor)
    folders = [path.parent for place in places for path in (anchor / place).glob("*/bin/initdb*")]
    return max(
        folders, key=lambda one: (one.parent.name.isdigit() and int(one.parent.name), one), default=None
    )


# -- the side of the tests --------------------------------------------------------------------------------


def open_run() -> None:
    """Called once, by the process that runs the others: names the run's folder. Nothing is started yet."""
    if _FOLDER not in os.environ:
        os.environ[_FOLDER] = tempfile.mkdtemp(prefix="council-pg-")
        os.environ[f"{_FOLDER}_RUN"] = str(os.getpid())


def close_run() -> None:
    """Called once by the same process: end the server, if one was started."""
    if os.environ.get(f"{_FOLDER}_RUN") != str(os.getpid()):
        return
    folder = Path(os.environ.pop(_FOLDER))
    if (folder / "keeper.log").exists():
        (folder / _STOP).touch()
        deadline = time.monotonic() + 15.0
        while folder.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def server() -> PostgresServer:
    """The run's server; the first who asks starts it. Raises `RuntimeError` with its log."""
    folder = Path(os.environ[_FOLDER])
    with contextmanager(_one_at_a_time)(folder / "starting"):
        if not (folder / _READY).exists():
            _start_keeper(folder)
        told = json.loads((folder / _READY).read_text())
        found = PostgresServer(**told)
        if found.template is None:
            found = _with_template(found)
            _write(folder / _READY, found)
    return found


def _one_at_a_time(lock: Path) -> Iterator[None]:
    """A folder is made by exactly one."""
    deadline = time.monotonic() + 2 * _READY_S
    while True:
        try:
            lock.mkdir()
            break
        except FileExistsError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.rmdir()


def _start_keeper(folder: Path) -> None:
    with (folder / "keeper.log").open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.postgres", str(folder), os.environ[f"{_FOLDER}_RUN"]],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + _READY_S
    while not (folder / _READY).exists():
        if keeper.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(
                f"no PostgreSQL: {(folder / 'keeper.log').read_text(errors='replace')[-2000:]}"
            )
        time.sleep(0.05)
    # It outlives this process, which may be one of several that run tests: nobody here waits for it.
    keeper.returncode = 0


def _with_template(found: PostgresServer) -> PostgresServer:
    from sqlalchemy import create_engine

    from master.state import migrate

    named = replace(found, template="council_template")
    found.execute(sql.SQL("CREATE DATABASE council_template TEMPLATE template0"))
    engine = create_engine(found.url("council_template").replace("://", "+psycopg://"))
    with engine.begin() as connection:
        migrate.upgrade(connection)
    engine.dispose()
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
    for (table,) in found.execute(sql.SQL(tables), "council_template"):
        query = sql.SQL("SELECT coalesce(json_agg(t), '[]') FROM {} AS t").format(sql.Identifier(table))
        ((rows,),) = found.execute(query, "council_template")
        if rows:
            named.rows[table] = rows
    return named


def _write(file: Path, found: PostgresServer) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(found)))
    fresh.replace(file)


# -- a server ---------------------------------------------------------------------------------------------


class OwnServer:
    """A server of one's own, for tests that stop it. It listens on loopback and writes no log of its own."""

    def __init__(self, folder: Path) -> None:
        """`folder`: empty, and reachable by another user where this one is root."""
        found = binaries()
        if found is None:
            raise RuntimeError(f"PostgreSQL is not installed: {INSTALL}")
        self._binaries = found
        self._data = folder / "data"
        self._log = folder / "server.log"
        self._as = _not_root(folder)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        self._data.parent.mkdir(parents=True, exist_ok=True)
        self._run("initdb", "-D", str(self._data), "-A", "trust", "-U", _USER, "-E", "UTF8", "--no-sync",
                  *_locale())  # fmt: skip

    def start(self) -> PostgresServer:
        """Start it on its port and wait until it answers. Raises `RuntimeError` with its log."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            "shared_buffers": "32MB",
            "max_connections": 200,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binaries / "postgres"), "-D", str(self._data), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._as,
            )
        found = PostgresServer("127.0.0.1", self.port, self._process.pid)
        deadline = time.monotonic() + _READY_S
        while True:
            try:
                found.execute(sql.SQL("SELECT 1"))
                return found
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(self._log.read_text(errors="replace")[-2000:]) from error
                time.sleep(0.02)

    def stop(self, *, at_once: bool = False) -> None:
        """End it: connections are closed in order, or (`at_once`) cut as by a crash."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(
                signal.SIGTERM if sys.platform == "win32" else signal.SIGQUIT if at_once else signal.SIGINT
            )
            try:
                self._process.wait(10.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._process = None

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._binaries / program), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            **self._as,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stderr.decode(errors='replace')[-2000:]}")


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """A server for one test, not started yet; ended and forgotten in the end."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "server")
        home.mkdir()
        os.chmod(folder, 0o711)
        server = OwnServer(home)
        try:
            yield server
        finally:
            server.stop()


def _not_root(folder: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root: the user that such a process runs as, who is given the folder."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return {}
    import pwd

    names = {one.pw_name: one for one in pwd.getpwall()}
    user = names.get("postgres") or names["nobody"]
    os.chown(folder, user.pw_uid, user.pw_gid)
    os.chmod(folder, 0o700)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}


def _locale() -> tuple[str, ...]:
    """Characters of all languages in lower case, and an order that does not depend on this machine."""
    return ("--locale=C.UTF-8",) if sys.platform == "linux" else ("--no-locale",)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _keep(folder: Path, run: int) -> None:
    home = folder / "server"
    home.mkdir()
    os.chmod(folder, 0o711)
    own = OwnServer(home)
    try:
        _write(folder / _READY, own.start())
        while psutil.pid_exists(run) and not (folder / _STOP).exists():
            time.sleep(0.2)
    finally:
        own.stop(at_once=True)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), int(sys.argv[2]))
