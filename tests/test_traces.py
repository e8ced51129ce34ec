"""The ledger of trace ids: no id is in flight twice at one server, and the caller's own word for a run stays.

The oracle of the property is the rule itself: a set of ids that may not be sent.
"""

from __future__ import annotations

import re
import threading
from typing import Final

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from oxygent_client._ids import ALPHABET, new_id
from oxygent_client._traces import TRACES, TraceLedger

A: Final = "http://a"
B: Final = "http://b"
RENAMED: Final = re.compile(rf"t-[{ALPHABET}]{{12}}")


def test_an_id_that_is_free() -> None:
    """A free id is sent as it is, again after a run that closed, and to another server meanwhile."""
    ledger = TraceLedger()
    assert ledger.claim(A, "t") == "t"
    assert ledger.claim(B, "t") == "t"
    ledger.release(A, "t", closed=True)
    assert ledger.claim(A, "t") == "t"
    assert ledger.remote_name(A, "t") == "t"


def test_one_server() -> None:
    """A server is the same with a slash at its end, with other user information and with another query."""
    ledger = TraceLedger()
    ledger.claim(A, "t")
    for same in (f"{A}/", "http://me:pw@a", f"{A}?key=1"):
        assert RENAMED.fullmatch(ledger.claim(same, "t"))
    assert ledger.claim(f"{A}/prefix", "t") == "t"


def test_an_id_in_flight() -> None:
    """While a run has the id, the next one goes by another; the remote's name of it is remembered."""
    ledger = TraceLedger()
    ledger.claim(A, "t")
    second, third = ledger.claim(A, "t"), ledger.claim(A, "t")
    assert RENAMED.fullmatch(second)
    assert RENAMED.fullmatch(third)
    assert len({"t", second, third}) == 3
    assert (third, "t") == (ledger.remote_name(A, "t"), ledger.remote_name(B, "t"))


def test_a_run_that_did_not_close() -> None:
    """What such a run left at the server is never read: its id is not sent again, even after a run that closed."""
    ledger = TraceLedger()
    ledger.release(A, ledger.claim(A, "t"), closed=False)
    second = ledger.claim(A, "t")
    assert RENAMED.fullmatch(second)
    ledger.release(A, second, closed=True)
    assert RENAMED.fullmatch(ledger.claim(A, "t"))
    assert ledger.claim(B, "t") == "t"


def test_the_name_follows_the_last_run() -> None:
    """A run that has its caller's id again is no longer known by another."""
    ledger = TraceLedger()
    ledger.claim(A, "t")
    second = ledger.claim(A, "t")
    ledger.release(A, "t", closed=True)
    assert (second, "t", "t") == (ledger.remote_name(A, "t"), ledger.claim(A, "t"), ledger.remote_name(A, "t"))


def test_the_table_is_bounded() -> None:
    """Of each kind the newest are kept, so many; what is in flight is never forgotten."""
    ledger = TraceLedger(size=3)
    for number in range(5):
        ledger.release(A, ledger.claim(A, f"t{number}"), closed=False)
    ledger.claim(A, "in flight")
    assert [True, True, False, False, False] == [ledger.claim(A, f"t{n}") == f"t{n}" for n in range(5)]
    assert ledger.claim(A, "in flight") != "in flight"


def test_what_is_used_again_is_new() -> None:
    """An id that ended without a close once more is the newest again."""
    ledger = TraceLedger(size=2)
    for trace_id in ("a", "b", "a", "c"):
        ledger.release(A, trace_id, closed=False)
    assert ledger.claim(A, "b") == "b"
    assert ledger.claim(A, "a") != "a"


def test_threads() -> None:
    """Threads that ask at the same moment never get the same id."""
    ledger = TraceLedger()
    start = threading.Barrier(8)
    claimed: list[str] = []

    def claim() -> None:
        start.wait()
        claimed.extend([ledger.claim(A, "t") for _ in range(100)])

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (800, 1) == (len({*claimed}), claimed.count("t"))


def test_the_ledger_of_the_process() -> None:
    """There is one, of the documented size."""
    assert TRACES.size == 10_000


@pytest.mark.parametrize("length", [0, 1, 12, 16, 22])
def test_new_ids(length: int) -> None:
    """An id has the length that is asked for, and signs that cannot be taken for another."""
    drawn = [new_id(length) for _ in range(100)]
    assert {length} == {len(each) for each in drawn}
    assert {*"".join(drawn)} <= {*ALPHABET}
    assert not {*"01IOl"} & {*ALPHABET}
    assert len({*drawn}) == 100 or length < 12


def test_the_usual_length() -> None:
    """Ids are as long as those that servers draw."""
    assert len(new_id()) == 16


class Ledger(RuleBasedStateMachine):
    """Runs that begin and end in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = TraceLedger()
        self.running: list[tuple[str, str]] = []
        self.left: set[tuple[str, str]] = set()
        self.names: dict[tuple[str, str], str] = {}

    @rule(url=st.sampled_from([A, B]), trace_id=st.sampled_from(["t", "u"]))
    def begin(self, url: str, trace_id: str) -> None:
        """A run begins: under the caller's id exactly if that is free."""
        remote = self.ledger.claim(url, trace_id)
        key = (url, trace_id)
        assert (key not in self.running and key not in self.left) == (remote == trace_id)
        assert (url, remote) not in self.running
        assert (url, remote) not in self.left
        self.running.append((url, remote))
        self.names[key] = remote

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 99), closed=st.booleans())
    def end(self, which: int, closed: bool) -> None:
        """Some run ends, well or not."""
        url, remote = self.running.pop(which % len(self.running))
        self.ledger.release(url, remote, closed=closed)
        if not closed:
            self.left.add((url, remote))

    @invariant()
    def names_are_known(self) -> None:
        """The remote's name of the last run of each id is known."""
        for (url, trace_id), remote in self.names.items():
            assert remote == self.ledger.remote_name(url, trace_id)


TestLedger = Ledger.TestCase
TestLedger.__doc__ = (
    """Whatever begins and ends, no id is in flight twice, and none is sent to what a broken run left."""
)
