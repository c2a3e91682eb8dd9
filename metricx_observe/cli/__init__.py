"""The command `metricx-observe`. A command imports what it needs when it runs, so that each starts fast."""

from __future__ import annotations

import sys
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

from metricx_observe.extras import install_command

try:
    import typer
except ImportError as error:  # the console script exists without the extra
    wanted = "receiver" if "dev" in sys.argv else "cli"
    raise SystemExit(f"metricx-observe needs: {install_command(wanted)}") from error

from metricx_observe.exceptions import ObserveError

from . import outbox
from .deliver import deliver
from .forget import forget, with_vendors_options
from .text import harmless

app = typer.Typer(name="metricx-observe", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(outbox.app, name="outbox")
app.command()(with_vendors_options(forget))
app.command()(deliver)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"metricx-observe {version('metricx-observe')}")
        raise typer.Exit


@app.callback()
def commands(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version, and exit.")
    ] = False,
) -> None:
    """Errors, events and LLM traces of a FastAPI application: see them, and look after their delivery."""


@app.command()
def dev(
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 4390,
    store: Annotated[Path | None, typer.Option(help="SQLite file; default: in the user's state directory.")] = None,
    token: Annotated[str | None, typer.Option(envvar="METRICX_RECEIVER_TOKEN", help="Callers must present it.")] = None,
    allowed_host: Annotated[list[str] | None, typer.Option(help="A name for the Host header; repeatable.")] = None,
) -> None:
    """Run the local receiver: what the vendors would get, on a page."""
    try:
        from metricx_observe.receiver import run
    except ImportError as error:
        raise SystemExit(f"the receiver needs: {install_command('receiver')}") from error

    run(
        host,
        port,
        store_path=store,
        token=token,
        allowed_hosts=allowed_host or (),
        on_listen=lambda url: typer.echo(f"metricx_observe receiver: {url} (Ctrl-C stops it)"),
    )


@app.command()
def scrub(
    file: Annotated[Path, typer.Argument(help="A JSON file; - for standard input.", allow_dash=True, dir_okay=False)],
) -> None:
    """Show what the scrubber leaves of a JSON of yours, and its report."""
    import orjson

    from metricx_observe.observability import Observability
    from metricx_observe.settings import load_settings

    data = sys.stdin.buffer.read() if str(file) == "-" else _read(file)
    scrubber = Observability(load_settings({}), tolerant=True).scrubber
    try:
        scrubbed = scrubber.scrub(orjson.loads(data), "file", "content")
    except orjson.JSONDecodeError as error:
        raise ObserveError(f"this is no JSON: line {error.lineno}, column {error.colno}") from None
    typer.echo(harmless(orjson.dumps(scrubbed, option=orjson.OPT_INDENT_2).decode(), keep="\n"))
    for rules in scrubber.report.as_dict().get("file", {}).values():
        for rule, count in rules.items():
            typer.echo(f"{rule}: {count}", err=True)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ObserveError(f"{file} cannot be read: {error.strerror}") from None


def main() -> None:
    """The entry point. Our own errors are one line on stderr and exit status 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that a terminal's encoding does not have ends no command
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except ObserveError as error:
        typer.echo(f"metricx-observe: {harmless(str(error), keep=chr(10))}", err=True)
        raise SystemExit(1) from None
