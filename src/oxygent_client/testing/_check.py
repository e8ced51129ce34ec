"""`check_transport`: test that a transport fulfils the `Transport` contract.

Rule 1: what is promised, and how it is looked at, is in `_promises.py`; here it is carried out and told.
Rule 2: a check is bounded in time: a transport that hangs is found wrong, and hangs nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Literal, TypeAlias

import attrs

from oxygent_client._core.errors import ConfigurationError
from oxygent_client._core.tasks import plain_task_group
from oxygent_client.testing._transport_checks import (
    CHECKS,
    SECONDS,
    TRANSPORT_PROMISES,
    Bench,
    BrokenPromise,
    Make,
    SkippedCheck,
    shown,
)

__all__ = ["TransportCheckError", "TransportReport", "check_transport"]

Result: TypeAlias = Literal["kept", "broken", "skipped"]
RESULTS: Final[tuple[Result, ...]] = ("kept", "broken", "skipped")


@attrs.frozen
class TransportReport:
    """What `check_transport` saw; its text is a table for a person to read."""

    results: Mapping[str, Result]
    """Each check by its name."""
    notes: Mapping[str, str]
    """What was seen where a promise was broken, and why a check was skipped."""
    checkpoints: int
    """At how many places an exchange was cancelled: at each at which it waited or might have."""

    def names(self, result: Result) -> tuple[str, ...]:
        """The checks with this result."""
        return tuple(name for name, found in self.results.items() if found == result)

    def __str__(self) -> str:
        counted = ", ".join(f"{len(self.names(result))} {result}" for result in RESULTS)
        lines = [f"{len(self.results)} promises: {counted}; cancelled at {self.checkpoints} checkpoints"]
        for name, result in self.results.items():
            lines.append(f"  {result:<8}{name:<15}{TRANSPORT_PROMISES[name]}")
            if name in self.notes:
                lines.append(f"{'':25}{'seen' if result == 'broken' else 'why'}: {self.notes[name]}")
        return "\n".join(lines)


class TransportCheckError(AssertionError):
    """The transport breaks promises, which the text names. What came out unexpectedly is in the `__cause__`."""

    report: TransportReport

    def __init__(self, report: TransportReport) -> None:
        super().__init__(report)
        self.report = report

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the checks whose promise was broken."""
        return self.report.names("broken")


@attrs.define
class _Judgement:
    """Of one check."""

    result: Result = "broken"
    note: str = "a cancellation came out that nobody had asked for"
    error: Exception | None = None


async def _judge(bench: Bench, name: str, judgement: _Judgement) -> None:
    try:
        with bench.begin(name) as scope:
            await CHECKS[name](bench)
        hung = scope.cancel_called
        judgement.result, judgement.note = ("broken", f"not at its end after {SECONDS:g} s") if hung else ("kept", "")
    except SkippedCheck as why:
        judgement.result, judgement.note = "skipped", str(why)
    except BrokenPromise as seen:
        judgement.note = str(seen)
    except Exception as error:  # noqa: BLE001  (it is the finding, and goes on as the cause)
        judgement.note, judgement.error = f"{shown(error)} came out", error


async def check_transport(make: Make, *, skip: Collection[str] = ()) -> TransportReport:
    """A report on whether a transport keeps each promise of `Transport`, if it does.

    `await check_transport(lambda peer: MyTransport())` is a whole test, on asyncio and on trio. The requests go to a
    server on loopback that is part of the check.

    Args:
        make: called often, each time for a new transport, which the check closes. One in process reaches what it needs
            by `peer.app`, an ASGI application, or `peer.replies`, for a `FakeTransport`.
        skip: names of checks, in `TRANSPORT_PROMISES`, whose promise the transport is there to break: `redirect` where
            redirects are followed.

    Raises:
        TransportCheckError: a promise is broken; the text says which, and what was seen.
        ConfigurationError: `skip` names a check that does not exist.
    """
    if unknown := sorted(set(skip) - CHECKS.keys()):
        raise ConfigurationError(f"check_transport: no check is called {unknown}; there are {', '.join(CHECKS)}")
    judgements = {name: _Judgement("skipped", "as you say") if name in skip else _Judgement() for name in CHECKS}
    async with plain_task_group() as servers:
        bench = Bench(make, servers)
        for name, judgement in judgements.items():
            if name not in skip:
                # In a task of its own: a transport that leaves a scope open spoils the task, and no more.
                try:
                    async with plain_task_group() as tasks:
                        tasks.start_soon(_judge, bench, name, judgement)
                except Exception as spoiled:  # noqa: BLE001  (it is the finding)
                    judgement.result, judgement.note = "broken", judgement.note or shown(spoiled)
    results: dict[str, Result] = {name: judgement.result for name, judgement in judgements.items()}
    notes = {name: judgement.note for name, judgement in judgements.items() if judgement.note}
    report = TransportReport(results, notes, bench.checkpoints)
    if report.names("broken"):
        errors = [judgement.error for judgement in judgements.values() if judgement.error is not None]
        raise TransportCheckError(report) from (ExceptionGroup("came out unexpectedly", errors) if errors else None)
    return report
