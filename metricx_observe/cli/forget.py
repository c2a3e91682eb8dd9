"""`metricx-observe forget`: what is stored here of a user is deleted, and what the vendors hold can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from inspect import Signature, signature
from typing import Annotated, Any

import httpx
import typer

from metricx_observe.exceptions import ObserveError
from metricx_observe.settings import Settings, load_settings
from metricx_observe.vendors import REGISTRY
from metricx_observe.vendors.cli_erasure import client

from .outbox import _opened
from .text import harmless


def forget(
    user_id: Annotated[str, typer.Argument(help="The id that the application binds.")],
    vendors: Annotated[bool, typer.Option("--vendors", help="Make the vendors' deletion calls too.")] = False,
    receiver_token: Annotated[str, typer.Option(envvar="METRICX_RECEIVER_TOKEN", help="Of the receiver.")] = "",
    **options: Any,
) -> None:
    """Delete a user from the outbox, dead letters and local receiver; print, or make, the vendors' deletion calls."""
    if not user_id.strip():
        raise ObserveError("an empty id is nobody's")
    settings = load_settings({})
    failed: list[str] = []
    with _step("outbox", failed):
        typer.echo(f"outbox and dead letters: {_in_outbox(user_id)} messages deleted")
    with _step("receiver", failed):
        typer.echo(f"receiver: {_in_receiver(settings, user_id, receiver_token)} signals deleted")
    typer.echo()
    for vendor in REGISTRY.values():
        for text in vendor.erasure().commands(settings, user_id, options):
            typer.echo(harmless(text))
    typer.echo()
    for vendor in REGISTRY.values() if vendors else ():
        with _step(vendor.title, failed):
            if done := vendor.erasure().delete(settings, user_id, options):
                typer.echo(f"{vendor.title}: {done}")
    if failed:
        raise ObserveError(f"not done: {', '.join(failed)}")


def with_vendors_options(command: Callable[..., None]) -> Callable[..., None]:
    """Put the options that vendors declare into a command's signature, where Typer reads them."""
    parameters = [each for name, each in signature(command, eval_str=True).parameters.items() if name != "options"]
    for vendor in REGISTRY.values():
        parameters += vendor.erasure().options
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return command


@contextmanager
def _step(name: str, failed: list[str]) -> Iterator[None]:
    """A step that fails alone: the others are done all the same, and the exit status says so. Tells no response."""
    try:
        yield
    except ObserveError as error:
        failed.append(f"{name} ({error})")
    except httpx.HTTPStatusError as error:
        failed.append(f"{name} (answered {error.response.status_code})")
    except httpx.HTTPError as error:
        failed.append(f"{name} ({type(error).__name__})")
    except (AttributeError, KeyError, TypeError, ValueError):
        failed.append(f"{name} (its answer cannot be read)")


def _in_outbox(user_id: str) -> int:
    from metricx_observe.delivery.outbox.upkeep import forget as delete

    with _opened() as (outbox, channels):
        return delete(outbox, channels, user_id)


def _in_receiver(settings: Settings, user_id: str, token: str) -> int:
    """By a running receiver, else in the file that it leaves."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with suppress(httpx.ConnectError), client() as api:
        answer = api.delete(f"{settings.receiver_url}/api/signals", params={"user": user_id}, headers=headers)
        return int(answer.raise_for_status().json()["deleted"])
    with suppress(ImportError):  # without the extra there never was one
        from metricx_observe.receiver.store import Store, default_store_path

        if (path := default_store_path()).exists():
            store = Store(path)
            try:
                return store.forget(user_id)
            finally:
                store.close()
    return 0
