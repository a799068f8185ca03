"""`council db …`: back up, restore, check and move what the master keeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from master.cli.failure import CommandFailedError, ExitCode
from master.cli.options import ConfigOption, DataDirOption, JsonOption

if TYPE_CHECKING:
    from master.state.database import Address

DatabaseOption = Annotated[
    str | None,
    typer.Option("--database-url", help="SQLAlchemy URL; that of the settings by default."),
]


def backup(
    to: Annotated[
        Path | None, typer.Option("--to", help="File or folder; by default a file in this folder.")
    ] = None,
    data_dir: DataDirOption = None,
    database_url: DatabaseOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write everything the master keeps to one file, while it runs. The file holds all keys: keep it safe."""
    from master.cli.terminal import print_json, tell
    from master.state.backup import backup as write

    address, folder = _place(data_dir, database_url, config)
    file, manifest = write(address, folder, to)
    if as_json:
        print_json({"file": str(file), **manifest.to_json()})
        return
    typer.echo(str(file))
    tell(f"{_rows(manifest.counts)}; with it {', '.join(manifest.files)}. Models are not in it.")


def restore(
    file: Annotated[Path | None, typer.Argument(help="A file that `council db backup` wrote.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also over a council that is there, which is kept aside.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Put back what the last restore kept aside.")] = False,
    data_dir: DataDirOption = None,
    database_url: DatabaseOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a backup back, checked whole before anything is touched. The master must not run."""
    from master.cli.terminal import print_json, tell
    from master.state import restore as putting_back

    if (file is None) is not undo:
        raise CommandFailedError(
            "name the file of a backup, or say --undo",
            exit_code=ExitCode.USAGE,
            hint="council db restore FILE",
        )
    address, folder = _place(data_dir, database_url, config)
    if file is None:
        done = putting_back.undo(address, folder)
    else:
        done = putting_back.restore(file, address, folder, force=force)
    if as_json:
        manifest = done.manifest.to_json() if done.manifest else None
        print_json({"restored": manifest, "kept_aside": str(done.aside) if done.aside else None})
        return
    typer.echo(f"restored {done.manifest.created_at}" if done.manifest else "put back what was there before")
    if done.manifest is not None:
        tell(_rows(done.manifest.counts))
    if done.aside is not None:
        tell(f"What was there is in {done.aside}; `council db restore --undo` puts it back.")


def check(
    file: Annotated[
        Path | None, typer.Argument(help="A backup to check; the master's own database by default.")
    ] = None,
    data_dir: DataDirOption = None,
    database_url: DatabaseOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether the database, or a backup of it, is whole: integrity, references, version, rows."""
    from master.cli.terminal import print_json, tell

    found = _look_into(file) if file is not None else _look(*_place(data_dir, database_url, config))
    if as_json:
        print_json(found)
    else:
        typer.echo(f"{found['database']} {found['place']}: {_rows(found['counts'])}")
        for line in (*found["problems"], *found["notes"]):
            tell(f"  {line}")
    if not found["ok"]:
        raise CommandFailedError(
            f"{len(found['problems'])} problem(s) in {found['place']}",
            hint="`council db restore FILE --force` puts a backup in its place and keeps it aside",
        )


def migrate(
    to: Annotated[
        str, typer.Option("--to", help="The new place: postgresql://… or sqlite:///FOLDER/council.db.")
    ],
    data_dir: DataDirOption = None,
    database_url: DatabaseOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy everything to another database, verified, and leave this one as it is. The master must not run."""
    from master.cli.terminal import print_json, tell
    from master.state.database import parse_address
    from master.state.moving import move

    address, folder = _place(data_dir, database_url, config)
    target = parse_address(to)

    def progress(table: str, copied: int, rows: int) -> None:
        if rows and not as_json:
            tell(f"  {table}: {copied} of {rows}")

    moved = move(address, target, folder, progress=progress)
    if as_json:
        print_json(moved.to_json())
        return
    rows = sum(rows for rows, _ in moved.tables.values())
    typer.echo(
        f"copied {rows} rows of {len(moved.tables)} tables to {moved.target}; counts and hashes are equal"
    )
    tell(
        "From now on start the master with COUNCIL_DATABASE_URL set to that address. The old database is as "
        "it was; delete it when you are sure."
    )


def _look(address: Address, _folder: Path) -> dict[str, Any]:
    from master.state.checkup import check as look

    return look(address).to_json()


def _look_into(file: Path) -> dict[str, Any]:
    import tempfile

    from master.state import archive_file
    from master.state.checkup import check_file

    with tempfile.TemporaryDirectory() as folder:
        manifest = archive_file.extract(file, Path(folder))
        found: dict[str, Any] = {
            "problems": [],
            "notes": [],
            "counts": dict(manifest.counts),
            "revision": manifest.revision,
        }
        if manifest.database == "sqlite":
            found = check_file(Path(folder, "council.db")).to_json()
            if found["counts"] != dict(manifest.counts):
                found["problems"].append("the rows are not those that the manifest counts")
        return {**found, "ok": not found["problems"], "database": manifest.database, "place": str(file)}


def _place(data_dir: Path | None, database_url: str | None, config: Path | None) -> tuple[Address, Path]:
    """Where the master's rows are, and its data folder."""
    from common.master_settings import MasterSettings
    from master.state.database import parse_address

    settings = MasterSettings.load(
        "master", config=config, flags={"data_dir": data_dir, "database_url": database_url}
    )
    return parse_address(settings.sqlalchemy_url), settings.data_dir


def _rows(counts: dict[str, int] | Any) -> str:
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count and name != "pulse")
    return told or "no rows"
