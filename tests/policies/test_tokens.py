"""The token cache: expiry, background refresh, sharing between callers, and sources of secrets."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import example, given
from hypothesis import strategies as st

from oxygent_client._core.transport import Context
from oxygent_client.errors import ClosedError, ConfigurationError, HandlerError, OxyError
from oxygent_client.policies import Token, TokenCache
from oxygent_client.policies._tokens import SECRET_BYTES, CachedToken, FromEnv, FromFile
from tests.support.virtual import advance
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

TRACE: Final = Context(trace_id="t-1", node_id="n-1")
GIVEN: Final = [Token("one", expires_in=100), Token("two", expires_in=100), Token("three", expires_in=100)]


@attrs.define
class Provider:
    """Returns the tokens of a script, each after a while; an exception is raised."""

    script: list[Any]
    seconds: float = 1.0
    calls: int = 0

    async def __call__(self) -> str | Token:
        self.calls += 1
        given = self.script[self.calls - 1]
        await anyio.sleep(self.seconds)
        if isinstance(given, BaseException):
            raise given
        return given  # type: ignore[no-any-return]  # a script may hold invalid values, too


@attrs.define
class Asked:
    """Callers of one cache, and their results."""

    provider: Provider
    cache: TokenCache = attrs.field(factory=TokenCache)
    results: list[Any] = attrs.field(factory=list)

    async def once(self, refused: CachedToken | None = None) -> CachedToken:
        """Return a token."""
        return await self.cache.token(self.provider, refresh_before=60, context=TRACE, refused=refused)

    async def note(self, refused: CachedToken | None = None) -> None:
        """Record the token's value, or the error, and the seconds."""
        start = anyio.current_time()
        try:
            result: Any = (await self.once(refused)).value
        except OxyError as error:
            result = error
        self.results.append((result, round(anyio.current_time() - start, 6)))


async def together(*callers: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start these callers in order, at the same time."""
    async with anyio.create_task_group() as tasks:
        for caller in callers:
            tasks.start_soon(caller)
            for _ in range(3):  # until it waits; trio would start them in any order
                await checkpoint()


# --------------------------------------------------------------------------------------------------------------- Expiry

LIVES: Final[dict[str, tuple[list[Any], list[tuple[float, str]]]]] = {
    # the provider's tokens, then when a token is wanted (seconds), and the token that is used
    "no known end": (["one", "two"], [(0, "one"), (1e6, "one")]),
    "no end that is said": ([Token("one"), "two"], [(0, "one"), (1e6, "one")]),
    "fresh, then stale": (GIVEN, [(0, "one"), (39.5, "one"), (40, "two"), (79.5, "two"), (80, "three")]),
    "ended": (GIVEN, [(0, "one"), (100, "two"), (1000, "three")]),
    "shorter than the time before its end": (
        [Token("one", expires_in=30), Token("two", expires_in=30)],
        [(0, "one"), (14.5, "one"), (15, "two")],
    ),
}


@pytest.mark.parametrize("life", LIVES)
async def test_token_lifetime(life: str) -> None:
    """A token is used until 60 s before its expiry, a short one for half its lifetime."""
    script, wanted = LIVES[life]
    asked = Asked(Provider(script))
    start = anyio.current_time()
    for seconds, value in wanted:
        await anyio.sleep_until(start + seconds)
        assert (await asked.once()).value == value


async def test_stale() -> None:
    """While one caller refreshes a stale token, the others use it."""
    asked = Asked(Provider([*GIVEN]))
    await asked.once()
    await anyio.sleep(50)
    await together(asked.note, asked.note, asked.note)
    assert asked.results == [("one", 0), ("one", 0), ("two", 1)]
    await asked.note()
    assert asked.results[-1] == ("two", 0)
    assert asked.provider.calls == 2


async def test_a_refresh_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """If the refresh fails, the old token is used until its expiry, with a warning that shows no secret."""
    failures = [OSError("CANARY"), ClosedError("CANARY"), OSError("CANARY")]
    asked = Asked(Provider([GIVEN[0], *failures, "four"]))
    await asked.once()
    await anyio.sleep(50)
    await asked.note()
    await asked.note()
    assert asked.results == [("one", 1), ("one", 1)]
    texts = [record.getMessage() for record in caplog.records]
    for text, failed in zip(texts, ("OSError", "ClosedError"), strict=True):
        assert failed in text
    assert {
        (record.name, record.levelname, *(getattr(record, name) for name in ("event", "trace_id", "node_id")))
        for record in caplog.records
    } == {("oxygent_client", "WARNING", "warning", "t-1", "n-1")}
    await anyio.sleep(46.5)  # it expires during the refresh
    with pytest.raises(HandlerError, match=r"token provider.*OSError"):
        await asked.once()
    assert (await asked.once()).value == "four"
    assert "CANARY" not in caplog.text


# ------------------------------------------------------------------------------------------------------------- Sharing


async def test_shared_refresh() -> None:
    """Without a valid token all callers share one refresh, later ones too."""
    asked = Asked(Provider([*GIVEN]))
    for number, value in enumerate(("one", "two"), 1):
        await together(*[asked.note] * 5, lambda: _later(asked, 0.5))
        assert sorted(asked.results) == [(value, 0.5)] + [(value, 1)] * 5
        assert asked.provider.calls == number
        asked.results.clear()
        await anyio.sleep(100)


async def _later(asked: Asked, seconds: float) -> None:
    await anyio.sleep(seconds)
    await asked.note()


async def test_a_shared_failure() -> None:
    """Callers that share a failed refresh each get their own error with the same cause; the next call tries again."""
    cause = OSError("CANARY")
    asked = Asked(Provider([cause, "two"]))
    await together(*[asked.note] * 3)
    errors = [error for error, _ in asked.results]
    assert [(type(error), error.args, error.__cause__) for error in errors] == [
        (HandlerError, ("the token provider raised OSError",), cause)
    ] * 3
    assert len({id(error) for error in errors}) == 3
    assert (await asked.once()).value == "two"


async def test_the_refreshing_caller_is_cancelled() -> None:
    """If the refreshing caller is cancelled, a waiting caller takes over."""
    asked = Asked(Provider([*GIVEN]))

    async def impatient() -> None:
        with anyio.move_on_after(0.25):
            await asked.note()

    await together(impatient, asked.note, asked.note)
    assert asked.results == [("two", 1.25)] * 2
    asked = Asked(Provider([*GIVEN]))
    await together(asked.note, impatient, asked.note)
    assert asked.results == [("one", 1)] * 2


async def test_a_token_that_expires_before_its_waiter_wakes() -> None:
    """A caller that wakes after the new token has expired refreshes again."""
    asked = Asked(Provider([*GIVEN]))

    async def asks() -> None:
        await asked.once()
        advance(100)

    await together(asks, asked.note)
    assert asked.results == [("two", 102)]


async def test_refused() -> None:
    """After a 401 the token is dropped, and all callers share one refresh."""
    asked = Asked(Provider(["one", "two", "two", "three"]))
    one = await asked.once()
    await together(lambda: asked.note(one), lambda: asked.note(one), asked.note)
    await asked.note(one)  # it has changed since
    assert asked.results == [("two", 1)] * 3 + [("two", 0)]
    two = await asked.once()
    await asked.note(two)
    assert asked.results[-1] == ("two", 1)  # the provider has no other
    await asked.note(two)
    assert asked.results[-1] == ("two", 0)  # it was refreshed since: not again


# ------------------------------------------------------------------------------------------------- Values of a provider

NO_TOKENS: Final[dict[str, Callable[[], Any]]] = {
    "empty": lambda: "",
    "no text": lambda: b"CANARY",
    "nothing": lambda: None,
    "a space": lambda: "CANARY CANARY",
    "a line end": lambda: "CANARY\r\nx: y",
    "a last line end": lambda: "CANARY\n",
    "not ASCII": lambda: "CANARYß",
    "ended": lambda: Token("CANARY", expires_in=0),
    "ended while it was asked for": lambda: Token("CANARY", expires_in=1),
}


@pytest.mark.parametrize("case", NO_TOKENS)
async def test_invalid_tokens(case: str) -> None:
    """An invalid token raises ConfigurationError without showing it."""
    value = NO_TOKENS[case]()
    with pytest.raises(ConfigurationError) as caught:
        await Asked(Provider([value])).once()
    assert "CANARY" not in f"{caught.value!r}{caught.value.__cause__!r}{caught.value.__context__!r}"
    if not isinstance(value, Token):
        with pytest.raises(ConfigurationError, match="a token must"):
            Token(value)


@pytest.mark.parametrize("seconds", ["60", float("nan")])
def test_invalid_lifetimes(seconds: Any) -> None:
    """An invalid lifetime raises ConfigurationError."""
    with pytest.raises(ConfigurationError, match="expires_in"):
        Token("CANARY", expires_in=seconds)


def test_a_token_shows_no_value() -> None:
    """The reprs of the token and of the cached token do not show the value."""
    assert repr(Token("CANARY", expires_in=60)) == "Token(expires_in=60)"
    assert "CANARY" not in repr(CachedToken("CANARY"))


COPIES: Final[dict[str, Callable[[TokenCache], TokenCache]]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda cache: pickle.loads(pickle.dumps(cache)),
}


@pytest.mark.parametrize("way", COPIES)
async def test_a_copied_cache(way: str) -> None:
    """A copied cache has no token."""
    asked = Asked(Provider([*GIVEN]))
    await asked.once()
    asked.cache = COPIES[way](asked.cache)
    assert (await asked.once()).value == "two"


def test_each_loop_has_its_own() -> None:
    """Each event loop has its own token, since each has its own clock."""
    asked = Asked(Provider([*GIVEN], seconds=0))
    for backend in ("asyncio", "trio"):
        anyio.run(asked.note, backend=backend)
    assert [value for value, _ in asked.results] == ["one", "two"]


# ------------------------------------------------------------------------------------------------ Environment and files


async def test_from_env(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is read each time, and stripped."""
    source = FromEnv("OXYGENT_CLIENT_TEST_TOKEN")
    monkeypatch.setenv(source.name, "one")
    assert await source() == "one"
    monkeypatch.setenv(source.name, " two\n")
    assert await source() == "two"


@pytest.mark.parametrize("value", [None, "", " "], ids=["missing", "empty", "blank"])
async def test_from_env_without_a_secret(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    """A missing or empty variable is named in the error."""
    source = FromEnv("OXYGENT_CLIENT_TEST_TOKEN")
    if value is not None:
        monkeypatch.setenv(source.name, value)
    with pytest.raises(ConfigurationError, match="OXYGENT_CLIENT_TEST_TOKEN"):
        await source()


async def test_from_file(tmp_path: Path) -> None:
    """The file is read each time, so that a rotated token is used."""
    path = tmp_path / "token"
    source = FromFile(str(path))
    for text in ("one\n", "two\r\n"):
        path.write_bytes(text.encode())
        assert await source() == text.strip()


NO_FILES: Final[dict[str, bytes]] = {
    "empty": b" \n",
    "no UTF-8": b"CANARY\xff",
    "too large": b"CANARY" * SECRET_BYTES,
}


@pytest.mark.parametrize("case", NO_FILES)
async def test_invalid_secrets_in_a_file(case: str, tmp_path: Path) -> None:
    """The error names the file and does not show its content, nor do its causes."""
    path = tmp_path / "token"
    path.write_bytes(NO_FILES[case])
    with pytest.raises(ConfigurationError, match="file") as caught:
        await FromFile(str(path))()
    assert str(path) in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(("name", "why"), [("missing", "FileNotFoundError"), ("nul\0", "ValueError")])
async def test_unreadable_files(name: str, why: str, tmp_path: Path) -> None:
    """The error for an unreadable file names it and the class of the cause."""
    path = f"{tmp_path}/{name}"
    with pytest.raises(ConfigurationError, match=why) as caught:
        await FromFile(path)()
    assert repr(path) in str(caught.value)


# ----------------------------------------------------------------------------------------------------------- Any timing


@attrs.frozen
class Caller:
    """A caller that wants a token, perhaps within a time limit, and perhaps another one after a 401."""

    at: float
    patience: float
    is_refused: bool


@attrs.frozen
class Giving:
    """One response of the provider: how long it takes, and the token's lifetime; None: it fails."""

    seconds: float
    lasts: float | None


@attrs.define
class World:
    """A cache with its provider and callers, and a model that knows only the last token and the refresh."""

    script: list[Giving]
    is_asked: bool = False
    calls: int = 0
    completed: int = 0
    held: str = ""
    ends: dict[str, float] = attrs.field(factory=dict)
    broken: list[str] = attrs.field(factory=list)
    cache: TokenCache = attrs.field(factory=TokenCache)

    def check(self, rule: str, *, holds: bool) -> None:
        """Record a rule that is violated."""
        if not holds:
            self.broken.append(rule)

    @property
    def is_valid(self) -> bool:
        """Return whether the last token is valid."""
        return bool(self.held) and anyio.current_time() < self.ends[self.held]

    async def provide(self) -> Token:
        """Return the next token of the script, which is repeated."""
        self.check("never asked twice at once", holds=not self.is_asked)
        giving = self.script[self.calls % len(self.script)]
        self.is_asked = True
        self.calls += 1
        name, asked = f"t{self.calls}", anyio.current_time()
        try:
            await anyio.sleep(giving.seconds)
            self.completed += 1
            if giving.lasts is None:
                raise OSError
            if giving.lasts > giving.seconds:
                self.held = name
            self.ends[name] = asked + giving.lasts
            return Token(name, expires_in=giving.lasts)
        finally:
            self.is_asked = False

    async def want(self, refused: CachedToken | None) -> CachedToken | None:
        """Return a token, by the rules, or None."""
        if refused is not None and refused.value == self.held:
            self.held = ""
        start, completed, others_ask = anyio.current_time(), self.completed, self.is_asked
        at_once = others_ask and self.is_valid
        try:
            issued = await self.cache.token(self.provide, refresh_before=3, context=TRACE, refused=refused)
        except OxyError:
            self.check("no failure while there is a token", holds=not self.is_valid)
            return None
        finally:
            self.check("one refresh is enough for each", holds=self.completed - completed <= 1)
        now = anyio.current_time()
        self.check("no token after its end", holds=now < self.ends[issued.value])
        self.check("nobody waits without need", holds=not at_once or now == start)
        return issued

    async def call(self, caller: Caller, start: float) -> None:
        """Run one caller."""
        await anyio.sleep_until(start + caller.at)
        with anyio.move_on_after(caller.patience):
            issued = await self.want(None)
            if issued is not None and caller.is_refused:
                await self.want(issued)


# Callers start at odd moments and the provider takes even ones, so that no two things happen at once.
CALLERS: Final = st.builds(
    Caller,
    at=st.integers(0, 15).map(lambda number: number + 0.5),
    patience=st.integers(1, 40).map(lambda number: number * 0.7),
    is_refused=st.booleans(),
)
GIVINGS: Final = st.builds(Giving, seconds=st.integers(1, 4), lasts=st.none() | st.integers(1, 12))


@given(callers=st.lists(CALLERS, min_size=1, max_size=12), script=st.lists(GIVINGS, min_size=1, max_size=4))
@example(callers=[Caller(0.5, 9, is_refused=False)] * 3, script=[Giving(1, 9)])
@example(callers=[Caller(0.5, 0.7, is_refused=False)] * 3, script=[Giving(4, 9)])
async def test_any_timing(callers: list[Caller], script: list[Giving]) -> None:
    """For any timing, no expired token is used, and there is one refresh at a time for all."""
    world = World(script)
    start = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for caller in callers:
            tasks.start_soon(world.call, caller, start)
    assert world.broken == []
    assert not world.is_asked
