"""The search of the built documentation finds the words of the field.

Usage: python -m tests.project.site_search DIRECTORY    (the session `docs` runs it)
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any, Final

SEARCHES: Final = (
    "backoff",
    "cancel",
    "circuit breaker",
    "deadline",
    "failover",
    "health check",
    "heartbeat",
    "idempotent",
    "keepalive",
    "load balancing",
    "rate limit",
    "reconnect",
    "retry",
    "streaming",
    "timeout",
    "token refresh",
)


def pages(index: dict[str, Any], search: str) -> set[int]:
    """Return the pages that hold all words of a search, by their numbers in the index."""
    stem = importlib.import_module("sphinx.search.en").SearchEnglish({}).stem
    found: list[set[int]] = []
    for word in search.split():
        entries: list[int | list[int]] = [table.get(stem(word), []) for table in (index["terms"], index["titleterms"])]
        found.append({page for entry in entries for page in (entry if isinstance(entry, list) else [entry])})
    return set[int].intersection(*found)


def main(directory: str) -> int:
    """Return the number of searches without a page."""
    text = (Path(directory) / "searchindex.js").read_text()
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    missing = [search for search in SEARCHES if not pages(index, search)]
    found = f"{len(SEARCHES) - len(missing)} of {len(SEARCHES)} searches find a page"
    sys.stdout.write("\n".join([found, *missing, ""]))
    return len(missing)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
