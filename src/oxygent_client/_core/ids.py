"""Random ids and jitter."""

from __future__ import annotations

import secrets
from typing import Final

ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
"""The alphabet of real servers: no two characters look alike."""

_CHARACTERS: Final = bytes(ord(ALPHABET[byte % len(ALPHABET)]) for byte in range(256))
"""The character of each byte. Some stand for five bytes, others for four: that costs 0.01 bits."""


def new_id(length: int = 16) -> str:
    """A random id; 16 characters are 93 bits."""
    return secrets.token_bytes(length).translate(_CHARACTERS).decode()


def uniform(low: float, high: float) -> float:
    """A random number from `low` up to `high`, all equally likely."""
    return low + (high - low) * secrets.randbelow(2**53) / 2**53
