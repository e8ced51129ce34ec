"""The code blocks of the OxyGent `SSEOxyGent` documentation, as the tests look at them: whole, and what they lack.

Rule: what runs a block lies beside the blocks, in docs/examples/documentation/harness.py; there is no other.
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
"""Of each block its name, its document (the short or the long one), the line where it begins, and its digest."""


def digest(block: str) -> str:
    """What tells whether a block is as it was copied."""
    return hashlib.sha256(BLOCKS[block].encode()).hexdigest()


def needs(block: str) -> set[str]:
    """The names that a block uses and never imports or defines.

    Raises:
        SyntaxError: the block is no Python on its own.
    """
    ast.parse(BLOCKS[block])
    compile(BLOCKS[block], block, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    # As the body of a function, its own names are local; what is global there is what it lacks.
    waiting = [symtable.symtable(pasted("async def block():", block) + "\n    ...", block, "exec")]
    found: set[str] = set()
    while waiting:
        table = waiting.pop()
        waiting += table.get_children()
        if table.get_type() != "module":
            found |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    return found - {*dir(builtins), "__class__"}  # the latter is what `super()` stands on
