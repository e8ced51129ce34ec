"""The page of `serve --ui` in a real Chromium, over a toy: chat, calls, report, stop, questions of the agent.

Rule: the page asks for nothing but its own server, and the console stays empty.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from oxygent_client import SSEOxyGent
from oxygent_client.serve import ServeLimits
from oxygent_client.serve.agui import create_app
from oxygent_client.testing import ToyRemote, serve
from oxygent_client.testing.script import Call, Cut, Pause, Say, Script, Stream, Think, Together, Words
from tests.browser.chromium import Tab, chromium

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.needs("chromium")

HOSTILE: Final = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">\u202e"
MARKED: Final = """# A weekend in Lisbon

Fly **TP 533** at `08:25`, see [the airline](https://airline.test/tp533). It costs *142 euros*.

## Plan

1. Friday: tram 28
   - start at Martim Moniz
   - get out at **Graça**
2. Saturday: Belém

| Day | Where | Euros |
|---|:-:|---:|
| Friday | Alfama | 12 |
| Saturday | Belém, with a very long name of a monastery beside the river | 24 |

> The museum is closed on Mondays.

---

```python
def total(days: list[int]) -> int:
    return sum(days)  # euros
```
"""
LINK: Final = '<a title="{0}" href="{0}" target="_blank" rel="noopener noreferrer nofollow">{1}</a>'
SCRIPTS: Final = {
    "echo": Script(output=Words.REST),
    "memory": Script(output=Words.MEMORY),
    "trip": Script(
        [
            Think("A way there and a room."),
            Together(
                [
                    Call(
                        "flight_agent",
                        [Call("search_flights", query="BER to LIS", output="TP 533 at 08:25, 142 euros")],
                        query="Berlin to Lisbon",
                        output="TP 533",
                    ),
                    Call(
                        "hotel_agent",
                        [Call("search_hotels", query="Alfama", output="3 fit the budget")],
                        output="Error executing oxy hotel_agent: no room",
                    ),
                ]
            ),
            Stream("Fly at 08:25, stay with friends in Alfama.\n\n1. Friday: tram 28\n2. Saturday: Belém", 0.1),
        ],
        output="Fly at 08:25, stay with friends in Alfama.\n\n1. Friday: tram 28\n2. Saturday: Belém",
    ),
    "hostile": Script(
        [Call(HOSTILE, query=HOSTILE, output=HOSTILE), Say({"type": "feedback", "content": HOSTILE}), Pause(0.3)],
        output=HOSTILE,
    ),
    "marked": Script([Stream(MARKED, 0.5)], output=MARKED),
    "paced": Script(
        [Call("flight_agent", query="wait", output="ok"), Stream("It is done.", 1.5)], output="It is done."
    ),
    "slow": Script([Call("flight_agent", [Pause(60)], query="wait")], output="late"),
    "cut": Script([Stream("Half of the", 0.1), Pause(0.1), Cut()]),
    "long_ask": Script([Say({"type": "feedback", "content": "Book it?"}), Pause(5)], output="booked"),
    "ask": Script([Say({"type": "feedback", "content": "Book it?"}), Pause(0.5)], output="booked"),
}
TEXTS: Final = "[...document.querySelectorAll('article.agent:last-of-type .text')].map((each) => each.textContent)"
STATUS: Final = "document.getElementById('status').textContent"
FOCUS: Final = "document.activeElement.id"
SHOTS: Final = os.environ.get("OXYGENT_CLIENT_SHOTS", "")
"""A directory for screenshots; none are made without it."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """A browser."""
    with chromium(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def toy() -> ToyRemote:
    """The remote."""
    return ToyRemote(scripts=SCRIPTS)


@pytest.fixture
def tab(browser: Tab, toy: ToyRemote) -> Iterator[Tab]:
    """A tab with the page."""
    with serve(toy) as remote, serve(create_app(SSEOxyGent(remote), page=True, reasoning=True, hosts=HOSTS)) as url:
        browser.open(url, is_offline=False)
        browser.wait_for("document.title === 'trip_planner'")
        yield browser
        assert browser.problems == []
        assert {each for each in browser.requests if not each.startswith((url, "data:,"))} <= {"about:srcdoc"}


HOSTS: Final = ("127.0.0.1",)


def wait_until(tab: Tab, condition: Callable[[], bool]) -> None:
    """Wait until something holds at the remote, which is told by no event of the browser."""
    for _ in range(2000):
        if condition():
            break
        tab.call("Runtime.evaluate", expression="new Promise((done) => setTimeout(done, 5))", awaitPromise=True)


def shoot(tab: Tab, name: str) -> None:
    """Take a screenshot, if a directory for them is given."""
    if SHOTS:
        data = tab.call("Page.captureScreenshot", format="png")["data"]
        (Path(SHOTS) / f"{name}.png").write_bytes(base64.b64decode(data))


def shoot_all(tab: Tab, name: str) -> None:
    """Take screenshots in both schemes, and of a narrow page, which has nothing that is wider than it."""
    tab.call("Emulation.setDeviceMetricsOverride", width=1200, height=760, deviceScaleFactor=1, mobile=False)
    for scheme in ("light", "dark"):
        tab.prefer(scheme)
        shoot(tab, f"{name}-{scheme}")
    tab.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    shoot(tab, f"{name}-narrow")
    assert tab.run("document.documentElement.scrollWidth") <= 360
    tab.call("Emulation.clearDeviceMetricsOverride")


def ask(tab: Tab, query: str) -> None:
    """Send a message by the keyboard."""
    tab.run("document.getElementById('query').focus()")
    tab.call("Input.insertText", text=query)
    tab.press("Enter")


def finish(tab: Tab, query: str, status: str = "Done.") -> None:
    """Send a message, and wait for the end of its run."""
    ask(tab, query)
    tab.wait_for(f"{STATUS} === '{status}'")


def test_a_chat(tab: Tab, toy: ToyRemote) -> None:
    """Answers are shown, and the second turn has the memory of the first."""
    assert tab.run(FOCUS) == "query"
    finish(tab, "echo hello")
    assert tab.run(TEXTS) == ["hello"]
    finish(tab, "memory")
    assert tab.run(TEXTS) == ['["echo hello", "memory"]']
    assert tab.run("document.querySelectorAll('article').length") == 4
    assert [run.query for run in toy.runs] == ["echo hello", "memory"]
    assert tab.run(FOCUS) == "query"


def test_the_calls(tab: Tab) -> None:
    """The calls are a tree, with their state in words for screen readers; thoughts are apart from the answer."""
    finish(tab, "trip please")
    lines = tab.run(
        "[...document.querySelectorAll('#tree summary')].map((each) => [each.querySelector('.name').textContent,"
        " each.querySelector('.kind').textContent, each.querySelector('.gone').textContent].join(' '))"
    )
    assert lines == [
        "flight_agent agent done",
        "search_flights tool done",
        "hotel_agent agent failed",
        "search_hotels tool done",
    ]
    assert tab.run("document.querySelector('#tree > li > ul .name').textContent") == "search_flights"
    tab.run("document.querySelectorAll('#tree details').forEach((each) => { each.open = true; })")
    assert "142 euros" in tab.run("document.getElementById('tree').textContent")
    assert tab.run("document.querySelector('.thoughts .text').textContent") == "A way there and a room."
    shoot_all(tab, "calls")


def test_the_report(tab: Tab) -> None:
    """The report of the run is shown in a frame of its own, with its style and script."""
    finish(tab, "trip please")
    tab.call("Emulation.setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False)
    tab.run("document.getElementById('frame').addEventListener('load', () => { window.isLoaded = true; })")
    tab.run("document.getElementById('report').click()")
    tab.wait_for("window.isLoaded && document.getElementById('dialog').open")
    shoot(tab, "report")
    tab.call("Emulation.clearDeviceMetricsOverride")
    report = tab.run("document.getElementById('frame').srcdoc")
    assert "search_flights" in report
    assert "127.0.0.1" not in report
    tab.run("document.getElementById('close').click()")
    assert tab.run("document.getElementById('dialog').open") is False


@pytest.mark.parametrize("way", ["button", "key"])
def test_stop(way: str, tab: Tab, toy: ToyRemote) -> None:
    """The button and the Escape key stop the run at the remote."""
    ask(tab, "slow")
    tab.wait_for("document.querySelector('#tree summary')")
    if way == "key":
        tab.press("Escape")
    else:
        tab.run("document.getElementById('stop').click()")
    tab.wait_for(f"{STATUS} === 'Stopped.'")
    wait_until(tab, lambda: toy.runs[0].state != "started")
    assert toy.runs[0].state == "cancelled"
    assert tab.run("document.querySelector('#tree .gone').textContent") == "lost"
    finish(tab, "echo again")
    assert tab.run(TEXTS) == ["again"]


@pytest.mark.parametrize(("way", "feedback"), [("answer", ["yes", ""]), ("decline", [""])])
def test_a_question_of_the_agent(way: str, feedback: list[str], tab: Tab, toy: ToyRemote) -> None:
    """A question of the agent has a field for the answer, with the focus; the run goes on with it."""
    ask(tab, "ask")
    tab.wait_for(f"{FOCUS} === 'answer'")
    assert "Book it?" in tab.run("document.querySelector('.ask').textContent")
    if way == "answer":
        tab.call("Input.insertText", text="yes")
        tab.press("Enter")
    else:
        tab.run("document.getElementById('decline').click()")
    tab.wait_for(f"{STATUS} === 'Done.'")
    assert tab.run(TEXTS) == ["booked"]
    assert toy.runs[0].feedback == feedback
    assert tab.run(FOCUS) == "query"


def test_a_failure(tab: Tab) -> None:
    """A run that is cut is an alert that says whether the agent ran, after the text so far."""
    finish(tab, "cut", "The run failed.")
    assert tab.run(TEXTS) == ["Half of the"]
    alert = tab.run("document.querySelector('[role=alert]').textContent")
    assert "the run was cut off" in alert
    assert "may have run" in alert
    shoot(tab, "error")


def test_hostile_texts(tab: Tab) -> None:
    """Text of a remote stays text, wherever it is shown."""
    ask(tab, "hostile")
    tab.wait_for(f"{FOCUS} === 'answer'")
    tab.call("Input.insertText", text="<b>no</b>")
    tab.press("Enter")
    tab.wait_for(f"{STATUS} === 'Done.'")
    tab.run("document.querySelectorAll('#tree details').forEach((each) => { each.open = true; })")
    shoot(tab, "hostile")
    shown = HOSTILE.replace("\u202e", "\\u202e")
    assert tab.run(TEXTS) == [shown]
    assert shown in tab.run("document.getElementById('tree').textContent")
    assert tab.run("document.querySelectorAll('img, b').length") == 0
    assert tab.run("document.scripts.length") == 1
    assert tab.run("document.title") == "trip_planner"


def test_other_agents(tab: Tab, toy: ToyRemote) -> None:
    """The list has the agents of the organization; another one is another conversation."""
    options = tab.run("[...document.getElementById('agent').options].map((each) => each.value)")
    assert options == ["trip_planner", "flight_agent", "hotel_agent", "review_agent"]
    finish(tab, "echo one")
    tab.run("document.getElementById('agent').value = 'flight_agent'")
    tab.run("document.getElementById('agent').dispatchEvent(new Event('change'))")
    assert tab.run("document.querySelectorAll('article').length") == 0
    finish(tab, "echo two")
    assert [run.payload.get("callee") for run in toy.runs] == [None, "flight_agent"]


# ------------------------------------------------------------------------------------------------------------ Markdown

MARKDOWN: Final[list[Any]] = [
    # the text, the nodes that it becomes
    pytest.param("a\nb\n\nc", "<p>a\nb</p><p>c</p>", id="paragraphs"),
    pytest.param("# A\n## B #\n####### c", "<h3>A</h3><h4>B</h4><p>####### c</p>", id="headings"),
    pytest.param(
        "**a** __b__ *c* _d_ ~~e~~",
        "<p><strong>a</strong> <strong>b</strong> <em>c</em> <em>d</em> <del>e</del></p>",
        id="bold",
    ),
    pytest.param(
        "***a*** **a *b***", "<p><strong><em>a</em></strong> <strong>a <em>b</em></strong></p>", id="bold-and-italic"
    ),
    pytest.param("2*3*4 a_b_c * d * **e", "<p>2<em>3</em>4 a_b_c * d * **e</p>", id="no-markup"),
    pytest.param("`a*b*` ``c`d`` `e", "<p><code>a*b*</code> <code>c`d</code> `e</p>", id="code"),
    pytest.param("\\*a\\* \\x", "<p>*a* \\x</p>", id="escapes"),
    pytest.param(
        "```py\n# <b>\n\n**x**\n```\nend", "<pre><code># &lt;b&gt;\n\n**x**</code></pre><p>end</p>", id="block"
    ),
    pytest.param("~~~\na", "<pre><code>a</code></pre>", id="open-block"),
    pytest.param(
        "- a\n- b\n  - c\n\n1. d\n2. e",
        '<ul><li>a</li><li><p>b</p><ul><li>c</li></ul></li></ul><ol start="1"><li>d</li><li>e</li></ol>',
        id="lists",
    ),
    pytest.param("3) a\n\n4) b\nc", '<ol start="3"><li>a</li><li><p>b\nc</p></li></ol>', id="loose-list"),
    pytest.param("> a\n> - b\n\n---", "<blockquote><p>a</p><ul><li>b</li></ul></blockquote><hr>", id="quote"),
    pytest.param(
        "|a|b|\n|:-:|--:|\n|1|`2`|\n|3\\|4|\nx",
        '<div class="table" tabindex="0" role="region" aria-label="Table"><table><thead><tr><th class="mid">a</th>'
        '<th class="end">b</th></tr></thead><tbody><tr><td class="mid">1</td><td class="end"><code>2</code></td></tr>'
        '<tr><td class="mid">3|4</td><td class="end"></td></tr></tbody></table></div><p>x</p>',
        id="table",
    ),
    pytest.param("a | b\n- c", "<p>a | b</p><ul><li>c</li></ul>", id="no-table"),
    pytest.param("[*a*](https://x.test/?q=1)", f"<p>{LINK.format('https://x.test/?q=1', '<em>a</em>')}</p>", id="link"),
    pytest.param(
        "see https://x.test/a.", f"<p>see {LINK.format('https://x.test/a', 'https://x.test/a')}.</p>", id="address"
    ),
    pytest.param("![a](https://x.test/a.png)", f"<p>{LINK.format('https://x.test/a.png', 'a')}</p>", id="image"),
    pytest.param(
        "[a](javascript:alert(1)) [b](data:text/html,x)",
        "<p>[a](javascript:alert(1)) [b](data:text/html,x)</p>",
        id="other-schemes",
    ),
    pytest.param("[a](https://)", "<p>[a](https://)</p>", id="no-address"),
    pytest.param("<img src=x onerror=f()> &lt;", "<p>&lt;img src=x onerror=f()&gt; &amp;lt;</p>", id="html"),
    pytest.param(
        '[a](https://x.test/"onclick="f)',
        f"<p>{LINK.format('https://x.test/%22onclick=%22f', 'a')}</p>",
        id="attributes",
    ),
    pytest.param("a\u202eb", "<p>a\\u202eb</p>", id="hidden-characters"),
]


def drawn(tab: Tab, text: str) -> str:
    """Return the nodes that a text becomes, as HTML."""
    work = f"const box = document.createElement('div'); markdown(box, {json.dumps(text)}); return box.innerHTML;"
    return str(tab.run(f"(() => {{ {work} }})()"))


def test_markdown(tab: Tab) -> None:
    """Each usual mark becomes its node, and nothing else becomes one."""
    found = {case.id: drawn(tab, case.values[0]) for case in MARKDOWN}
    assert found == {case.id: case.values[1] for case in MARKDOWN}


LONG: Final = (
    "*a",
    "**a ",
    "_a ",
    "`a``",
    "[a](",
    "![",
    "[",
    "> ",
    "- ",
    "|-",
    "a|",
    "http://",
    "~~a",
    "\\",
    "#",
    "1. ",
    "<b>",
    "**_`[",
)


def test_long_texts(tab: Tab) -> None:
    """A text is drawn in a time that grows with its length alone, also one line of whatever marks."""
    slow = tab.run(
        f"{json.dumps(LONG)}.filter((mark) => {{ const began = performance.now();"
        " markdown(document.createElement('div'), mark.repeat(190000 / mark.length));"
        " markdown(document.createElement('div'), `${mark}\\n`.repeat(190000 / (mark.length + 1)));"
        " return performance.now() - began > 10000; })"
    )
    assert slow == []


def test_a_long_answer(tab: Tab) -> None:
    """A text beyond the limit is shown as it is."""
    assert drawn(tab, "*a* " * 60_000) == f"<p>{'*a* ' * 60_000}</p>"


def test_an_answer_with_markdown(tab: Tab) -> None:
    """An answer is drawn while it is written; what is drawn already stays the same node."""
    ask(tab, "marked")
    tab.wait_for("document.querySelector('.md h3')")
    tab.run("window.first = document.querySelector('.md h3')")
    tab.wait_for(f"{STATUS} === 'Done.'")
    assert tab.run("window.first === document.querySelector('.md h3')") is True
    names = "h3, h4, strong, ul, ol, pre, code, table, blockquote, a, hr"
    found = tab.run(f"[...new Set([...document.querySelectorAll('.md :is({names})')].map((each) => each.localName))]")
    assert sorted(found) == sorted(["h3", "h4", "strong", "ul", "ol", "pre", "code", "table", "blockquote", "a", "hr"])
    shoot_all(tab, "markdown")


# ------------------------------------------------------------------------------------------------------------ Reloading


def reload(tab: Tab) -> None:
    """Load the page again."""
    tab.run("window.isOld = true")
    tab.call("Page.reload")
    tab.wait_for("!window.isOld && document.title === 'trip_planner'")


def test_a_conversation_after_reloading(tab: Tab, toy: ToyRemote) -> None:
    """A conversation is there after the page was loaded again, and the next turn has its memory."""
    finish(tab, "echo **hello**")
    reload(tab)
    assert tab.run(FOCUS) == "query"
    finish(tab, "memory")
    assert tab.run(TEXTS) == ['["echo hello", "memory"]']
    finish(tab, "cut", "The run failed.")
    before = tab.run("[...document.querySelectorAll('article')].map((each) => each.textContent)")
    reload(tab)
    assert tab.run("[...document.querySelectorAll('article')].map((each) => each.textContent)") == before
    assert tab.run("document.querySelector('.md strong').textContent") == "hello"
    assert len(toy.runs) == 3
    tab.run("document.getElementById('new').click()")
    reload(tab)
    assert tab.run("document.querySelectorAll('article').length") == 0


def test_reloading_during_a_run(tab: Tab, toy: ToyRemote) -> None:
    """A run goes on while the page is loaded again, and is shown from its beginning; the agent runs once."""
    ask(tab, "paced")
    tab.wait_for("document.querySelector('#tree summary')")
    reload(tab)
    tab.wait_for(f"{STATUS} === 'Done.'")
    assert tab.run(TEXTS) == ["It is done."]
    assert tab.run("document.querySelector('#tree .name').textContent") == "flight_agent"
    assert tab.run("document.querySelectorAll('article').length") == 2
    assert [run.query for run in toy.runs] == ["paced"]


def test_reloading_during_a_question(tab: Tab, toy: ToyRemote) -> None:
    """A question of the agent is there after reloading, and can be answered; and so is what follows the answer."""
    ask(tab, "long_ask")
    tab.wait_for(f"{FOCUS} === 'answer'")
    reload(tab)
    tab.wait_for(f"{FOCUS} === 'answer'")
    assert "Book it?" in tab.run("document.querySelector('.ask').textContent")
    tab.call("Input.insertText", text="yes")
    tab.press("Enter")
    wait_until(tab, lambda: len(toy.runs[0].feedback) == 2)
    reload(tab)
    tab.wait_for(f"{STATUS} === 'Done.'")
    assert tab.run(TEXTS) == ["booked"]
    assert [run.feedback for run in toy.runs] == [["yes", ""]]


def test_an_answer_that_was_not_received(tab: Tab, toy: ToyRemote) -> None:
    """If the page was left before the server had the answer, the agent still asks after reloading."""
    ask(tab, "long_ask")
    tab.wait_for(f"{FOCUS} === 'answer'")
    resume = "resume: [{ interruptId: interrupt.id, status: 'resolved', payload: 'lost' }]"
    lost = f"{{ threadId: thread, runId: 'never sent', protocolVersion: '1.0', messages, {resume} }}"
    tab.run(f"pending.push({{ name: '', input: {lost} }}); save()")
    reload(tab)
    tab.wait_for(f"{FOCUS} === 'answer'")
    tab.call("Input.insertText", text="yes")
    tab.press("Enter")
    tab.wait_for(f"{STATUS} === 'Done.'")
    assert [run.feedback for run in toy.runs] == [["yes", ""]]
    (logged,) = tab.problems  # by the browser, of any response with such a status
    assert "404" in logged["params"]["entry"]["text"]
    tab.events.remove(logged)


def test_reloading_too_late(browser: Tab, toy: ToyRemote) -> None:
    """A run that was stopped meanwhile, or is not known any more, is an error on the page, and does not run again."""
    agent_limits = ServeLimits(return_seconds=0.01)
    with serve(toy) as remote:
        app = create_app(SSEOxyGent(remote), page=True, hosts=HOSTS, limits=agent_limits)
        with serve(app) as url:
            browser.open(url, is_offline=False)
            browser.wait_for("document.title === 'trip_planner'")
            ask(browser, "slow")
            browser.wait_for("document.querySelector('#tree summary')")
            reload(browser)
            browser.wait_for("document.querySelector('[role=alert]')")
            assert "client had left" in browser.run("document.querySelector('[role=alert]').textContent")
            browser.run("pending = [{ name: '', input: { threadId: 'x', runId: 'y', messages } }]; save()")
            reload(browser)
            browser.wait_for("document.querySelector('[role=alert]')")
            assert "no longer kept" in browser.run("document.querySelector('[role=alert]').textContent")
    assert [run.query for run in toy.runs] == ["slow"]


def test_names_for_screen_readers(tab: Tab) -> None:
    """All controls have names, messages are in a live region, and the order of the focus is that of the page."""
    finish(tab, "trip please")
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    found: dict[str, list[str]] = {}
    for node in nodes:
        if not node.get("ignored"):
            found.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    assert found["textbox"] == ["Your message (Enter sends, Shift+Enter is a new line)"]
    assert {"Report", "New conversation", "Send"} <= {*found["button"]}
    assert found["combobox"] == ["Agent"]
    assert found["log"] == ["Messages"]
    assert found["complementary"] == ["Calls of the run"]
    assert "" not in [name for role in ("button", "textbox", "combobox") for name in found[role]]
    (log,) = [each for each in nodes if each.get("role", {}).get("value") == "log"]
    assert {"name": "live", "value": {"type": "token", "value": "polite"}} in log["properties"]
    assert tab.run("document.querySelector('article.agent').getAttribute('aria-busy')") == "false"
    order = tab.run(
        "[...document.querySelectorAll('select, button, textarea, #log, summary')]"
        ".filter((each) => each.checkVisibility() && !each.disabled && !each.closest('dialog'))"
        ".map((each) => each.id || 'call')"
    )
    assert order == ["agent", "report", "new", "log", "call", "query", "send", "call", "call", "call", "call"]
    assert tab.run("[...document.querySelectorAll('[tabindex]')].every((each) => each.tabIndex <= 0)") is True


def test_a_server_with_a_token(browser: Tab, toy: ToyRemote) -> None:
    """The page asks for the token, and is of no use without it."""
    with serve(toy) as remote, serve(create_app(SSEOxyGent(remote), page=True, token="t0ken")) as url:
        browser.open(url, is_offline=False)
        browser.wait_for(f"{FOCUS} === 'token'")
        browser.call("Input.insertText", text="wrong")
        browser.press("Enter")
        browser.wait_for(f"{STATUS} === 'This server needs an access token.'")
        browser.run("document.getElementById('token').value = ''")
        browser.call("Input.insertText", text="t0ken")
        browser.press("Enter")
        browser.wait_for("document.title === 'trip_planner'")
        assert browser.run("document.getElementById('login').hidden") is True
        finish(browser, "echo hello")
        assert browser.run(TEXTS) == ["hello"]


def test_a_server_on_another_machine(browser: Tab, toy: ToyRemote) -> None:
    """The page works by plain http under any name, where a browser offers less than to a page of this machine."""
    with serve(toy) as remote, serve(create_app(SSEOxyGent(remote), page=True, hosts=["agents.test"])) as url:
        browser.open(url.replace("127.0.0.1", "agents.test"), is_offline=False)
        browser.wait_for("document.title === 'trip_planner'")
        assert not browser.run("window.isSecureContext")
        finish(browser, "echo hello")
        assert browser.run(TEXTS) == ["hello"]


def test_a_server_that_ends(browser: Tab, toy: ToyRemote) -> None:
    """If the server ends during a run, the page says that the agent may have run, and a report that it is gone."""
    with serve(toy) as remote:
        with serve(create_app(SSEOxyGent(remote), page=True, hosts=HOSTS)) as url:
            browser.open(url, is_offline=False)
            browser.wait_for("document.title === 'trip_planner'")
            ask(browser, "slow")
            browser.wait_for("document.querySelector('#tree summary')")
        browser.wait_for("document.querySelector('[role=alert]')")
        assert "may have run" in browser.run("document.querySelector('[role=alert]').textContent")
        browser.run("document.getElementById('report').click()")
        browser.wait_for(f"{STATUS}.startsWith('There is no report')")
