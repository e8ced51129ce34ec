"""Random ids and jitter."""

from __future__ import annotations

import secrets
from typing import Final

__all__ = ["new_id", "uniform"]

ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
"""What real servers make theirs of: no sign looks like another."""


def new_id(length: int = 16) -> str:
    """A new id; 16 signs are 93 bits."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def uniform(low: float, high: float) -> float:
    """A number between the two, each as likely as any other."""
    return low + (high - low) * secrets.randbelow(2**53) / 2**53
