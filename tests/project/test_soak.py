"""The tables that a soak writes: place, rows and outcomes."""

from __future__ import annotations

import pytest

from tests.support.soak import COLUMNS, PAGE, Tables, here, marks, placed, table

PLACE = "before\n<!-- cuts -->\nold\n<!-- end of cuts -->\nafter\n"


@pytest.mark.parametrize("name", COLUMNS)
def test_each_table_has_its_place(name: str) -> None:
    """The page has each mark once, and its table has the columns that the tests fill."""
    page = PAGE.read_text()
    start, end = marks(name)
    assert page.count(start) == 1
    assert page.count(end) == 1
    shown = page.partition(start)[2].partition(end)[0]
    assert f"| {' | '.join(COLUMNS[name])} |" in shown


def test_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """The page has the rows of all tests together, and how those ended."""
    tables = Tables()
    for test in "abc":
        tables.begun(test, "cuts")
    tables.add("a", "FIN", "httpx", "trio", 7)
    tables.add("b", "RST", "httpx", "trio", 0.125)
    for test, outcome in (("a", "passed"), ("b", "failed"), ("c", "failed"), ("other", "passed")):
        tables.ended(test, outcome, 1.4)
    expected = """\
before
<!-- cuts -->

now; 2 failed, 1 passed in 3 s.

| how it was cut | transport | loop | cuts |
| --- | --- | --- | ---: |
| FIN | httpx | trio | 7 |
| RST | httpx | trio | 0.12 |

<!-- end of cuts -->
after
"""
    assert tables.written(PLACE, "now") == expected
    assert tables.written(expected, "now") == expected
    assert capsys.readouterr().out == "| FIN | httpx | trio | 7 |\n| RST | httpx | trio | 0.12 |\n"


def test_an_invalid_table() -> None:
    """A row of another length raises an error."""
    with pytest.raises(AssertionError, match="cuts"):
        table("cuts", [("FIN",)])


@pytest.mark.parametrize("page", ["", "<!-- cuts -->\n"], ids=["empty", "without an end"])
def test_a_page_without_the_mark(page: str) -> None:
    """A page without the mark raises an error."""
    with pytest.raises(AssertionError, match="no place"):
        placed(page, "cuts", "text")


def test_environment() -> None:
    """The line has the day, the commit, the Python version and the processors."""
    assert len(here().split(", ")) == 4
