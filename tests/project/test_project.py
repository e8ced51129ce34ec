"""Rules about the project's files: layout, exceptions, dependencies, versions, and forbidden texts.

Rule 1: an exception to a rule is a line in a table here, or a comment beside it with a reason.
Rule 2: the checked files are those of the project: those that git has, or would take.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import re
import subprocess
import tokenize
import tomllib
from typing import TYPE_CHECKING, Any, Final

import pytest

import oxygent_client
from tests.conftest import FIXTURES, ROOT

if TYPE_CHECKING:
    from pathlib import Path

TOP_LEVEL: Final = {"LICENSE", "README.md", "benchmarks", "docs", "noxfile.py", "pyproject.toml", "src", "tests"}
"""And files and directories whose names begin with a dot."""

MOST_PRAGMAS: Final = 10

EXTRAS_ELSEWHERE: Final[dict[str, str]] = {
    # extra: the module that needs it, where that has another name
    "fast": "json_codec",  # faster JSON for everything
    "pytest": "pytest_plugin",  # pytest's own convention; it imports `pytest`
}

DEPENDENCIES: Final = ["anyio", "attrs", "httpx", "httpx-sse"]

# Each is written so that this file does not contain it.
FORBIDDEN: Final = {
    "a path of one machine": r"/[r]oot/|/[w]ork/(main|shared)|/[t]mp/dev\b|/[o]pt/(wheels|pypi)|/[h]ome/[a-z]",
    "a host of a package registry": r"[p]ythonhosted\.org|[p]ypi\.org|[n]pmjs\.(org|com)|[d]eb\.debian\.org",
    "a package index": r"--[i]ndex-url|--[e]xtra-index-url|--[f]ind-links|[P]IP_INDEX",
    "a conflict that was not resolved": r"(?m)^[<]{7} |^[>]{7} ",
}


def project_files() -> list[Path]:
    """Return each file that git has or would take."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"needs a git checkout ({type(exc).__name__})")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def project_table() -> dict[str, Any]:
    """Return the `project` table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def text_of(path: Path) -> str:
    """Return the file as text; invalid bytes become U+FFFD."""
    return path.read_text(encoding="utf-8", errors="replace")


def comments(path: Path) -> list[tuple[int, str]]:
    """Yield the comments of a Python file, with their lines."""
    tokens = tokenize.generate_tokens(io.StringIO(text_of(path)).readline)
    return [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]


def test_the_top_level() -> None:
    """The files at the top level are listed here: a new one is a decision."""
    top = {path.relative_to(ROOT).parts[0] for path in project_files()}
    assert {name for name in top if not name.startswith(".")} == TOP_LEVEL


def test_forbidden_texts() -> None:
    """No file has a path of one machine, a package registry or an index: it must work elsewhere too."""
    found = [
        f"{path.relative_to(ROOT)}: {what}: {match[0]}"
        for path in project_files()
        for what, pattern in FORBIDDEN.items()
        for match in re.finditer(pattern, text_of(path))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a path of one machine", "see /" + "root/x"),
        ("a path of one machine", "/" + "home/me"),
        ("a host of a package registry", "https://pypi" + ".org/simple"),
        ("a package index", "pip install -" + "-index-url x"),
        ("a conflict that was not resolved", "x\n" + "<" * 7 + " HEAD"),
    ],
)
def test_the_patterns_of_forbidden_texts(what: str, text: str) -> None:
    """The patterns above match what they should."""
    assert re.search(FORBIDDEN[what], text)


@pytest.mark.seconds
def test_pragmas() -> None:
    """Lines without coverage are few, each with a reason: `# pragma: no cover (why)`."""
    pragmas = [
        (f"{path.relative_to(ROOT)}:{line}", text.partition("pragma:")[2].strip())
        for path in project_files()
        if path.suffix == ".py" and path.is_relative_to(ROOT / "src")
        for line, text in comments(path)
        if "pragma:" in text
    ]
    table = "\n".join(f"{place}  {text}" for place, text in pragmas)
    assert len(pragmas) <= MOST_PRAGMAS, f"\n{table}"
    assert [place for place, text in pragmas if not re.fullmatch(r"no (cover|branch)\W+\w.*", text)] == [], f"\n{table}"


@pytest.mark.seconds
def test_lint_exceptions_have_reasons() -> None:
    """`noqa`, `type: ignore` and `pyright: ignore` have the rule and a reason in the same line."""
    marker = re.compile(r"# (?:noqa|type: ignore|pyright: ignore)\b")
    explained = re.compile(r"(?:noqa: [A-Z]+\d+(?:, ?[A-Z]+\d+)*|ignore\[[\w, -]+\])\s*(?:# |\()\s*\S")
    silent = [
        f"{path.relative_to(ROOT)}:{line} {text}"
        for path in project_files()
        if path.suffix == ".py"
        for line, text in comments(path)
        if marker.search(text) and not explained.search(text)
    ]
    assert silent == []


def test_the_dependencies() -> None:
    """There are four dependencies with a lower and no upper bound; everything else is an extra."""
    requirements = project_table()["dependencies"]
    assert [re.split(r"[<>=!~]", requirement)[0] for requirement in requirements] == DEPENDENCIES
    assert [requirement for requirement in requirements if not re.fullmatch(r"[\w-]+>=[\d.]+", requirement)] == []


def test_an_extra_is_named_like_its_module() -> None:
    """An extra has the name of its module, so that the error for a missing one can name it."""
    names = {part for path in (ROOT / "src").rglob("*.py") for part in path.with_suffix("").parts}
    extras = project_table().get("optional-dependencies", {})
    assert [extra for extra in extras if EXTRAS_ELSEWHERE.get(extra, extra) not in names] == []


def test_the_command() -> None:
    """The console script's function exists."""
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="oxygent-client")
    assert callable(script.load())


def test_the_version() -> None:
    """The package, the distribution and the newest changelog entry have one version."""
    changelog = text_of(ROOT / "docs" / "changelog.md")
    newest = re.search(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)
    assert newest is not None
    assert oxygent_client.__version__ == importlib.metadata.version("oxygent-client") == newest[1]


def test_typing_marker() -> None:
    """The marker for type checkers is installed with the package."""
    files = importlib.metadata.files("oxygent-client") or []
    editable = not any(file.name == "__init__.py" for file in files)
    assert editable or any(file.name == "py.typed" for file in files)


def test_readme_and_ci_agree() -> None:
    """The README has one command that tests it all, on its own line; .ci/run reads it from there."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text_of(ROOT / "README.md"), re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if "python -m nox" in line]
    assert commands == ["python -m pip install nox && python -m nox"]


def test_recordings_are_complete() -> None:
    """Each recording in the manifest exists, with its length."""
    manifest: list[dict[str, Any]] = json.loads(text_of(FIXTURES / "wire" / "manifest.json"))
    assert manifest
    assert [
        entry["file"] for entry in manifest if (FIXTURES / "wire" / entry["file"]).stat().st_size != entry["bytes"]
    ] == []
