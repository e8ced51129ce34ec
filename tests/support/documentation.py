"""The code blocks of the OxyGent `SSEOxyGent` documentation, and the names that they lack.

Rule: the harness that runs a block is docs/examples/documentation/harness.py; there is no other.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import json
import symtable
from typing import Any, Final

from docs.examples.documentation.harness import BLOCKS as BLOCKS
from docs.examples.documentation.harness import LOCAL as LOCAL
from docs.examples.documentation.harness import Program as Program
from docs.examples.documentation.harness import framework as framework
from docs.examples.documentation.harness import pasted as pasted
from tests.conftest import FIXTURES

HOME: Final = FIXTURES / "documentation"
INDEX: Final[list[dict[str, Any]]] = json.loads((HOME / "blocks.json").read_text(encoding="utf-8"))
"""The name, the document (the short or the long one), the first line and the digest of each block."""


def digest(block: str) -> str:
    """Return the digest by which a changed block is found."""
    return hashlib.sha256(BLOCKS[block].encode()).hexdigest()


def needs(block: str) -> set[str]:
    """Return the names that a block uses and never imports or defines.

    Raises:
        SyntaxError: the block is not valid Python on its own.
    """
    ast.parse(BLOCKS[block])
    compile(BLOCKS[block], block, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    # In a function body its own names are local; the global ones are missing.
    waiting = [symtable.symtable(pasted("async def block():", block) + "\n    ...", block, "exec")]
    found: set[str] = set()
    while waiting:
        table = waiting.pop()
        waiting += table.get_children()
        if table.get_type() != "module":
            found |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    return found - {*dir(builtins), "__class__"}  # the latter is used by `super()`
