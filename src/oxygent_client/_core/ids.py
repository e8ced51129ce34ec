"""Random ids and jitter."""

from __future__ import annotations

import secrets
from typing import Final

__all__ = ["new_id", "uniform"]

ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
"""The alphabet of real servers: no two characters look alike."""


def new_id(length: int = 16) -> str:
    """A random id; 16 characters are 93 bits."""
    number = secrets.randbits(8 * length)  # 5.8 bits make a character; the rest makes all of them equally likely
    characters: list[str] = []
    for _ in range(length):
        number, place = divmod(number, len(ALPHABET))
        characters.append(ALPHABET[place])
    return "".join(characters)


def uniform(low: float, high: float) -> float:
    """A random number from `low` up to `high`, all equally likely."""
    return low + (high - low) * secrets.randbelow(2**53) / 2**53
