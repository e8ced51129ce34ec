"""Policies around a transport: retry, authentication, redirects, limits, https only.

Each policy `X` is a frozen value, and `XTransport(inner, X(...))` is the transport that applies it.
"""

from typing import TYPE_CHECKING

from oxygent_client._core.deprecation import ModuleGetattr
from oxygent_client._core.lazy_names import lazy_names
from oxygent_client._core.plain_http import check_secure

if TYPE_CHECKING:
    from oxygent_client.policies._auth import (
        APIKey,
        APIKeyTransport,
        BasicAuth,
        BasicAuthTransport,
        BearerAuth,
        BearerAuthTransport,
        Headers,
        HeadersProvider,
        HeadersTransport,
    )
    from oxygent_client.policies._base import Policy, PolicyKind, Wrapper
    from oxygent_client.policies._chain import ORDER, Policies
    from oxygent_client.policies._https import HTTPSOnly, HTTPSOnlyTransport
    from oxygent_client.policies._limits import (
        ConcurrencyLimit,
        ConcurrencyLimitTransport,
        RateLimit,
        RateLimitTransport,
    )
    from oxygent_client.policies._redirect import Redirect, RedirectTransport
    from oxygent_client.policies._retry import Retry, RetryBudget, RetryTransport
    from oxygent_client.policies._tokens import SecretProvider, Token, TokenCache, TokenProvider

__all__ = [
    "ORDER",
    "APIKey",
    "APIKeyTransport",
    "BasicAuth",
    "BasicAuthTransport",
    "BearerAuth",
    "BearerAuthTransport",
    "ConcurrencyLimit",
    "ConcurrencyLimitTransport",
    "HTTPSOnly",
    "HTTPSOnlyTransport",
    "Headers",
    "HeadersProvider",
    "HeadersTransport",
    "Policies",
    "Policy",
    "PolicyKind",
    "RateLimit",
    "RateLimitTransport",
    "Redirect",
    "RedirectTransport",
    "Retry",
    "RetryBudget",
    "RetryTransport",
    "SecretProvider",
    "Token",
    "TokenCache",
    "TokenProvider",
    "Wrapper",
    "check_secure",
]

_HOMES = {
    "_auth": (
        "APIKey",
        "APIKeyTransport",
        "BasicAuth",
        "BasicAuthTransport",
        "BearerAuth",
        "BearerAuthTransport",
        "Headers",
        "HeadersProvider",
        "HeadersTransport",
    ),
    "_base": (
        "Policy",
        "PolicyKind",
        "Wrapper",
    ),
    "_chain": (
        "ORDER",
        "Policies",
    ),
    "_https": (
        "HTTPSOnly",
        "HTTPSOnlyTransport",
    ),
    "_limits": (
        "ConcurrencyLimit",
        "ConcurrencyLimitTransport",
        "RateLimit",
        "RateLimitTransport",
    ),
    "_redirect": (
        "Redirect",
        "RedirectTransport",
    ),
    "_retry": (
        "Retry",
        "RetryBudget",
        "RetryTransport",
    ),
    "_tokens": (
        "SecretProvider",
        "Token",
        "TokenCache",
        "TokenProvider",
    ),
}
"""The names of each module."""

__getattr__: ModuleGetattr = lazy_names(__name__, _HOMES, {"Kind": "oxygent_client.policies:PolicyKind"})


def __dir__() -> list[str]:
    return sorted(__all__)
