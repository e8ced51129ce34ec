"""Policies around a transport: retry, authentication, redirects, limits, https only.

Each policy `X` is a frozen value, and `XTransport(inner, X(...))` is the transport that applies it.
"""

from oxygent_client._core.deprecation import ModuleGetattr, moved_names
from oxygent_client._core.plain_http import check_secure
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
from oxygent_client.policies._limits import ConcurrencyLimit, ConcurrencyLimitTransport, RateLimit, RateLimitTransport
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

__getattr__: ModuleGetattr = moved_names(__name__, {"Kind": "oxygent_client.policies:PolicyKind"})
