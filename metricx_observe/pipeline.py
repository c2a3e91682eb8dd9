"""What stands behind an `Observability`: the vendors that its settings name, and delivery."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from secrets import token_bytes
from time import monotonic
from typing import Any

from . import context as contexts
from .boundary import Boundary
from .context import Hooks
from .delivery import Channel, Delivery, Limits
from .exceptions import ConfigurationError
from .interrupts import is_interrupt
from .logs import set_level
from .scrubber import Scrubber
from .settings import Settings
from .signals.errors import ErrorReporter
from .signals.llm import LLMTracer
from .signals.tracker import Tracker
from .startup import state_of
from .vendors import REGISTRY, fit, options_by_vendor
from .vendors.vendor import Opened, Target

_FACADES: dict[str, Any] = {"tracker": Tracker, "llm": LLMTracer, "errors": ErrorReporter}


class Pipeline:
    """The way of a signal: a facade, its vendor, the scrubber and delivery. Opened and closed as one."""

    def __init__(self, settings: Settings, options: Mapping[str, Any], *, tolerant: bool) -> None:
        """Nothing runs yet. Raises ConfigurationError, as `Observability` says."""
        self.settings = settings
        self._options = options_by_vendor(options)
        self._tolerant = tolerant
        self.targets: dict[str, Target] = {name: vendor.target(settings) for name, vendor in REGISTRY.items()}
        faults = [target.reason for target in self.targets.values() if target.state == "fault"]
        faults += filter(None, [settings.delivery_fault])
        if faults and not tolerant:
            raise ConfigurationError("; ".join(faults))
        self.boundary = Boundary(settings.strict)
        self._scrub_rules: dict[str, Any] = {
            "names": settings.scrub_names,
            "patterns": settings.scrub_patterns,
            "safe_names": settings.scrub_safe_names,
            "key": token_bytes(),  # of the hash in markers: the same in both processes
        }
        try:
            self.scrubber = Scrubber(**self._scrub_rules)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        self.opened: dict[str, Opened] = {}
        self.delivery: Delivery | None = None
        self.tracker = Tracker(None, self.boundary)
        self.llm = LLMTracer(None, self.boundary)
        self.errors = ErrorReporter(None, self.boundary)

    def open(self, *, middleware: bool) -> None:
        """Import and start the SDKs of the configured vendors. `middleware`: whether ours sees the requests."""
        settings, channels = self.settings, list[Channel]()
        self.opened.clear()
        if settings.enabled:
            set_level(settings.log_level)
        secret = settings.carry_secret
        contexts.hooks.carry_secret = None if secret is None else secret.get_secret_value().encode()
        contexts.hooks.note = self.boundary.note
        for name, target in self._wanted().items():
            with self._opening(name):
                fit.check(REGISTRY[name])
                channels += REGISTRY[name].channels(settings, target, self.scrubber, self.boundary.count)
        if not channels:
            return
        self.delivery = delivery = self._deliver(channels)
        for name, target in self._wanted().items():
            vendor, options = REGISTRY[name], self._options.get(name, {})
            with self._opening(name):
                self.opened[name] = opened = vendor.open(
                    settings, target, delivery, scrubber=self.scrubber, options=options, middleware=middleware
                )
                if facade := _FACADES.get(vendor.facade):
                    setattr(self, vendor.facade, facade(opened.sink, self.boundary))

    def _wanted(self) -> dict[str, Target]:
        """The vendors that are on, or local."""
        return {name: target for name, target in self.targets.items() if target.is_open}

    @contextmanager
    def _opening(self, name: str) -> Iterator[None]:
        """An SDK that does not fit costs its own vendor; what is configured wrongly is an error, unless tolerant."""
        try:
            yield
        except ConfigurationError as error:
            if not self._tolerant:
                raise
            self.targets[name] = Target("fault", reason=str(error))
        except Exception as error:
            if is_interrupt(error):
                raise
            self.targets[name] = Target("fault", reason=fit.misfit(REGISTRY[name], error))

    def _deliver(self, channels: list[Channel]) -> Delivery:
        settings, limits = self.settings, limits_of(self.settings)
        if settings.delivery == "process" and settings.mode != "test":  # where rows stay in this process
            from .delivery_process.client import RemoteDelivery

            what = channels, settings, self._wanted(), self._scrub_rules, limits
            return RemoteDelivery(*what, isolate=self.isolated, boundary=self.boundary, scrubber=self.scrubber)
        shared = settings.delivery == "external" and not settings.delivery_fault
        deliver = settings.mode != "test" and not shared
        return Delivery(
            channels, url=settings.outbox, limits=limits, deliver=deliver, shared=shared, isolate=self.isolated
        )

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """What delivery's threads run in: no vendor's instrumentation sees them."""
        with ExitStack() as stack:
            for opened in list(self.opened.values()):  # the next vendor may be opening
                stack.enter_context(opened.isolated())
            yield

    def status(self) -> dict[str, Any]:
        """Per vendor its state and what delivery counted; delivery's own; faults of calls; what was scrubbed."""
        delivery = self.delivery.status() if self.delivery is not None else {}
        parts = {
            name: {"state": state_of(target, self.settings), **delivery.pop(name, {})}
            for name, target in self.targets.items()
        }
        for name, opened in self.opened.items():
            parts[name] |= opened.status()
        return {
            **parts,
            **delivery,
            "faults": dict(self.boundary.counts),
            "scrubbed": self.scrubber.report.as_dict(),
        }

    def flush_vendors(self) -> None:
        """Ask the vendors' clients for what they hold themselves."""
        self._each_alone("flush", [opened.flush for opened in self.opened.values()])

    def close(self, deadline_s: float) -> None:
        """Stop the vendors' clients, deliver until the deadline, and give back what is the process's."""
        until, opened, delivery = monotonic() + deadline_s, self.opened.values(), self.delivery
        self.flush_vendors()
        steps: list[Callable[[], None]] = [partial(each.stop, min(0.5, deadline_s / 4)) for each in opened]
        if delivery is not None:
            steps.append(lambda: delivery.close(max(0.0, until - monotonic())))
        self._each_alone("close", [*steps, *(each.close for each in opened)])
        if contexts.hooks.note == self.boundary.note:
            contexts.hooks.note = Hooks.note

    def _each_alone(self, call: str, steps: Iterable[Callable[[], None]]) -> None:
        """A step that fails keeps no other from being done, in strict mode too."""
        for step in steps:
            try:
                step()
            except Exception as error:
                if is_interrupt(error):
                    raise
                self.boundary.count(call, [type(error).__name__])


def limits_of(settings: Settings) -> Limits:
    """The bounds of delivery that are settings."""
    return Limits(
        outbox_bytes=settings.outbox_max_bytes,
        max_age_s=settings.outbox_max_age,
        ephemeral=settings.outbox_ephemeral,
    )
