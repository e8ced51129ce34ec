"""Names of headers, parameters, cookies and JSON members that hold credentials.

Rule 1: a name is split into words: `dbPass`, `db_pass`, `DB-PASS` and `db.pass` are the same name.
Rule 2: words with another meaning inside a name (`session_count`, `signature_version`) count only at its end.
Rule 3: each pattern names its source. The tests have a table of names that are not secret, too.
"""

from __future__ import annotations

import functools
from typing import Final

from oxygent_client._core.patterns import compiled

_WORDS: Final = r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\x00-\x7f]+"

_ANYWHERE: Final = (
    # RFC 9110, 6265, 9449, 7519, 6238: HTTP authentication, cookies, DPoP, JSON web tokens, one-time passwords
    r"\b(auth|authentication|authorization|bearer|dpop|jwt|t?otp)\b",
    # OWASP, Cross-Site Request Forgery Prevention Cheat Sheet
    r"\b(csrf|xsrf)\b",
    # gitleaks, `generic-api-key`, and detect-secrets, `KeywordDetector`
    r"\b(credentials?|creds|passcode|passphrase|passkey)\b",
    r"\b\w*(cookie|password|secret|token|apikey)s?\b",
    r"\b\w*(passwd|pswd|pwd)\b",
    r"\b(db|database|ftp|key|ldap|mail|mysql|pg|postgres|proxy|redis|root|smtp|ssh|user|usr|wifi)pass\b",
    r"\bcontrase(na| ñ a)\b",
    # likewise, and the keys of cloud vendors: AWS `AccessKeyId`, Azure `SharedAccessKey`, Alibaba, JD and Tencent
    # `AppKey`, `SecretKey`; `Ocp-Apim-Subscription-Key`, `x-functions-key`
    (
        r"\b\w*(access|account|api|app|client|consumer|database|db|encryption|functions|license|master|preshared"
        r"|priv|private|secret|service|signing|ssh|subscription) ?keys?( ?(id|secret|value))?\b"
    ),
    # Azure and ADO.NET: it holds a password
    r"\bconnection ?string\b",
    # AWS Signature 4, Google's signed URLs, Alibaba's `x-oss-signature`, Tencent's `q-signature`
    r"\b(amz|goog|oss|q) signature\b",
    # Session ids of servers: Java, PHP, ASP, ColdFusion (OWASP, Session Management Cheat Sheet)
    r"\b(session|sess) id\b|\b\w*sess(ion)?id\b|\baspsessionid\w*|\bcf(id|token)\b",
    # RFC 7521, 7636, 8628; SAML 2.0
    r"\bclient assertion\b|\bcode verifier\b|\bdevice code\b|\bsaml ?(response|request)\b",
    # Chinese: password, key, pass phrase, token, credential, authorization code, verification code, PIN
    r"密[码碼](?![学學本])|[密秘][钥鑰](?!数)|私[钥鑰]|金鑰|口令|令牌(?!数)|[权權]杖|[凭憑][证證据據]",
    r"[授认認][权權证證][码碼]|[验驗][证證][码碼]|[识識][别別][码碼]",
)
_AT_THE_END: Final = (
    # of passwords and PINs: `pass`, `db_pass`, `user_pin`, `PIN码`
    r"pass|pw|pin( number)?",
    # of signatures: Azure's shared access signatures (`sig`), CloudFront (`Signature`), `x-hub-signature-256`
    r"sig|signature|sas",
    # of sessions: `connect.sid` (Express), `sid`, `koa.sess`, `session`
    r"sid|sess|session",
    # of key pairs: access key and secret key, as Chinese vendors write them
    r"ak|sk",
    # signature and session in Chinese
    r"[签簽][名章]值?|[会會][话話]( ?[标標][识識]符?| ?[编編]?[号號])?",
)
_BEGINS: Final = "(?:(?<![^ ])|(?<=[^\x00-\x7f]))"
"""The beginning of a word; Chinese has no spaces between words."""
_SECRET: Final = (
    f"{'|'.join(_ANYWHERE)}|{_BEGINS}(?:{'|'.join(_AT_THE_END)})(?: (?:code|hash|id|key|value|[码碼值]))?(?: \\d+)?$"
)
_OTHER_MEANINGS: Final = (
    r"\b(band|boarding|first|high|low|multi|second|single|two) pass$"
    r"|\b(call|class|function|method|type) signature$"
    r"|\b(map|push|rolling) pin$"
)
"""Names that end like those of secrets but are not."""


def _split(name: str) -> str:
    """The words of a name, in lower case, with spaces in between."""
    return " ".join(compiled(_WORDS).findall(name)).lower()


def is_secret_name(name: str) -> bool:
    """Whether a value of this name is a secret."""
    return _is_known_secret_name(name) if len(name) <= _REMEMBERED else _is_secret_name(name)


_REMEMBERED: Final = 64
"""Names of up to so many characters are remembered; the names of headers are looked at in each call."""


def _is_secret_name(name: str) -> bool:
    words = _split(name)
    return compiled(_SECRET).search(words) is not None and not compiled(_OTHER_MEANINGS).search(words)


_is_known_secret_name: Final = functools.lru_cache(maxsize=1024)(_is_secret_name)


_COUNT: Final = r"\b(tokens|budget|count|counts|limit|max|maximum|min|minimum|num|number|total|usage|used)\b"
"""Model APIs count tokens: `max_tokens`, `completion_tokens`, `token_count`, `tokenLimit`."""


def is_count_name(name: str) -> bool:
    """Whether a number under this name counts tokens: `max_tokens`; under `token` alone it is a credential."""
    words = _split(name)
    return "token" in words and compiled(_COUNT).search(words) is not None
