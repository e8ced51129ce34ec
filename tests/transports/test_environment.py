"""Proxies and certificates from the environment, without a network."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Final

import pytest

from oxygent_client import errors
from oxygent_client.transports._environment import KEY_LOG, Proxies, no_trust, trust, without_bad_key_log

if TYPE_CHECKING:
    from pathlib import Path

PROXY: Final = "http://proxy.test:3128"

SET: Final = [
    pytest.param({"HTTP_PROXY": PROXY}, "http://a.test", PROXY, id="http"),
    pytest.param(
        {"http_proxy": PROXY, "HTTP_PROXY": "http://other.test"}, "http://a.test", PROXY, id="lower case wins"
    ),
    pytest.param({"HTTP_PROXY": "proxy.test:3128"}, "http://a.test", PROXY, id="without a scheme"),
    pytest.param({"HTTP_PROXY": PROXY}, "https://a.test", None, id="https has a variable of its own"),
    pytest.param({"HTTPS_PROXY": PROXY}, "https://a.test", PROXY, id="https"),
    pytest.param({"ALL_PROXY": PROXY}, "https://a.test", PROXY, id="all"),
    pytest.param({"ALL_PROXY": "http://other.test", "HTTP_PROXY": PROXY}, "http://a.test", PROXY, id="http before all"),
    pytest.param({}, "http://a.test", None, id="nothing"),
]


def given(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """Set these variables."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("variables", "url", "expected"), SET)
def test_the_variables(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, expected: str | None
) -> None:
    """The variable of the scheme is used, or else ALL_PROXY."""
    given(monkeypatch, variables)
    found = Proxies.read(None, trust_env=True).find(url)
    assert (found and found.url) == expected


LOOPBACK: Final = [
    "http://localhost:8082",
    "http://LOCALHOST.:8082",
    "http://api.localhost",
    "http://127.0.0.1",
    "http://127.8.9.10:1",
    "http://[::1]:8082",
    "http://[::ffff:127.0.0.1]",
    "https://localhost",
]


@pytest.mark.parametrize("url", LOOPBACK)
def test_loopback_is_not_proxied(url: str) -> None:
    """Loopback is never proxied, for any environment, usable or not."""
    proxies = Proxies.read(None, trust_env=True, found={"all": "socks://127.0.0.1:9/", "http": PROXY, "https": PROXY})
    assert proxies.find(url) is None


def test_loopback_and_a_named_proxy() -> None:
    """The argument is used for every URL."""
    found = Proxies.read(PROXY, trust_env=True).find("http://localhost")
    assert (found and found.url) == PROXY


EXCEPTED: Final = [
    pytest.param("a.test", "http://a.test", True, id="a name"),
    pytest.param("a.test", "http://A.TEST.:8080", True, id="a name, written in another way"),
    pytest.param("a.test", "http://b.a.test", True, id="a subdomain"),
    pytest.param("a.test", "http://ba.test", False, id="the end of another name"),
    pytest.param(".a.test", "http://a.test", True, id="a dot in front"),
    pytest.param("*.a.test", "http://b.a.test", True, id="a star in front"),
    pytest.param("b.test, a.test ,,", "http://a.test", True, id="one of several"),
    pytest.param("a.test:80", "http://a.test", True, id="the port of the scheme"),
    pytest.param("a.test:8080", "http://a.test:8080", True, id="a port"),
    pytest.param("a.test:8080", "http://a.test", False, id="another port"),
    pytest.param("http://a.test", "http://a.test", True, id="a scheme"),
    pytest.param("10.1.2.3", "http://10.1.2.3", True, id="an address"),
    pytest.param("10.0.0.0/8", "http://10.1.2.3", True, id="a network"),
    pytest.param("10.1.2.3/8", "http://10.1.2.4", True, id="a network with bits of a host"),
    pytest.param("10.0.0.0/8", "http://11.1.2.3", False, id="another network"),
    pytest.param("10.0.0.0/8", "http://a.test", False, id="a network, and a name"),
    pytest.param("10.0.0.0/8", "http://[fd07::1]", False, id="a network, and an address of the other version"),
    pytest.param("10.0.0.0/8", "http://[::ffff:10.1.2.3]", True, id="an address of version 4 in one of version 6"),
    pytest.param("fd07::/64", "http://[fd07::1]:8082", True, id="a network of version 6"),
    pytest.param("[fd07::]/64", "http://[fd07::1]", True, id="a network in brackets"),
    pytest.param("fd07::1", "http://[fd07:0::1]", True, id="an address of version 6"),
    pytest.param("[fd07::1]:8082", "http://[fd07::1]:8082", True, id="an address of version 6 with a port"),
    pytest.param("[fd07::1]:8082", "http://[fd07::1]", False, id="an address of version 6 with another port"),
    pytest.param("localhost,127.0.0.1,::1/128", "http://a.test", False, id="what desktops write"),
    pytest.param("fd07::/999,[::1,1.2.3.4/x,:80,a.test:99999999999,.", "http://b.test", False, id="nonsense"),
    pytest.param("*", "http://a.test", True, id="everything"),
    pytest.param("b.test,*", "http://a.test", True, id="everything, among others"),
]


@pytest.mark.parametrize(("no_proxy", "url", "expected"), EXCEPTED)
def test_no_proxy(no_proxy: str, url: str, expected: bool) -> None:
    """NO_PROXY holds names, addresses and networks; other entries match nothing."""
    proxies = Proxies.read(None, trust_env=True, found={"all": PROXY, "no": no_proxy})
    assert (proxies.find(url) is None) == expected


def test_the_settings_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no variable names a proxy, the exceptions of the system's settings are used; here those are the variables."""
    proxies = Proxies.read(None, trust_env=True, found={"http": PROXY})
    monkeypatch.setenv("NO_PROXY", "a.test")
    assert proxies.find("http://a.test") is None
    found = proxies.find("http://b.test")
    assert str(found) == "proxy.test:3128 (the system's settings for http)"


def test_it_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is read once; later changes have no effect."""
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    proxies = Proxies.read(None, trust_env=True)
    monkeypatch.delenv("HTTP_PROXY")
    assert str(proxies.find("http://a.test")) == "proxy.test:3128 (HTTP_PROXY)"


USELESS: Final = [
    "socks://127.0.0.1:9/",
    "socks4://s3cret@127.0.0.1:9",
    "ftp://user:s3cret@proxy.test",
    "http://",
    "http://[::1",
    "http://proxy.test:s3cret",
    "http://proxy.test:0",
]


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("value", USELESS)
def test_an_unusable_proxy(monkeypatch: pytest.MonkeyPatch, value: str, variable: str) -> None:
    """A proxy that cannot be used raises an error where it is needed, with the variable and without a secret."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(errors.ConfigurationError, match=variable) as raised:
        Proxies.read(None, trust_env=True).find("http://a.test")
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("value", USELESS)
def test_an_unusable_argument(value: str) -> None:
    """An argument that cannot be used raises an error with its name and without a secret."""
    with pytest.raises(errors.ConfigurationError, match="proxy") as raised:
        Proxies.read(value, trust_env=True)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("trust_env", [True, False])
def test_without_the_environment(monkeypatch: pytest.MonkeyPatch, trust_env: bool) -> None:
    """`trust_env=False` ignores the environment."""
    monkeypatch.setenv("ALL_PROXY", PROXY)
    assert (Proxies.read(None, trust_env=trust_env).find("http://a.test") is not None) == trust_env


def test_a_text_that_is_not_a_url() -> None:
    """A text that is not a URL has no proxy."""
    with pytest.raises(errors.ConfigurationError, match="URL"):
        Proxies.read(None, trust_env=True, found={"all": PROXY}).find("http://[::1")


SHOWN: Final = [
    ("http://user:s3cret@proxy.test", "proxy.test:80 (proxy)"),
    ("https://proxy.test", "proxy.test:443 (proxy)"),
    ("socks5://[fd07::1]", "[fd07::1]:1080 (proxy)"),
    ("proxy.test:3128", "proxy.test:3128 (proxy)"),
]


@pytest.mark.parametrize(("url", "expected"), SHOWN)
def test_the_text_of_a_proxy(url: str, expected: str) -> None:
    """A proxy is shown with host, port and source, without user information."""
    found = Proxies.read(url, trust_env=True).find("http://a.test")
    assert str(found) == expected
    assert "s3cret" not in repr(found)


# --- certificates -----------------------------------------------------------------------------------------------------


def made() -> ssl.SSLContext:
    """Return the TLS context for the environment."""
    return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE"))


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"])
def test_a_missing_file(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """A missing file raises an error with the variable."""
    monkeypatch.setenv(variable, "/nonexistent/file")
    with pytest.raises(errors.ConfigurationError, match=variable):
        trust(made, trust_env=True)


def test_a_file_without_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file without certificates raises an error with the variable."""
    (tmp_path / "empty.pem").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "empty.pem"))
    with pytest.raises(errors.ConfigurationError, match="SSL_CERT_FILE"):
        trust(made, trust_env=True)


def test_no_certificates_at_all() -> None:
    """Without a variable, the error names the file that could not be read."""

    def nothing() -> ssl.SSLContext:
        raise FileNotFoundError

    with pytest.raises(errors.ConfigurationError, match="certificates"):
        trust(nothing, trust_env=True)


def test_certificates_without_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`trust_env=False` ignores the variables for certificates."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/file")
    assert trust(ssl.create_default_context, trust_env=False).verify_mode is ssl.CERT_REQUIRED


def test_a_context_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each environment has one context; a directory and a writable key log are used."""
    first = trust(made, trust_env=True)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setenv(KEY_LOG, str(tmp_path / "keys"))
    second = trust(made, trust_env=True)
    assert trust(made, trust_env=True) is second
    assert second is not first
    assert second.keylog_filename == str(tmp_path / "keys")


def test_a_context_without_authorities() -> None:
    """A context without authorities demands a certificate and trusts none."""
    assert no_trust().verify_mode is ssl.CERT_REQUIRED
    assert no_trust().get_ca_certs() == []


KEY_LOGS: Final = [
    pytest.param(None, None, id="none"),
    pytest.param("/nonexistent/keys", None, id="one that cannot be written to"),
    pytest.param("{}/keys", "{}/keys", id="one that can"),
]


@pytest.mark.parametrize(("value", "expected"), KEY_LOGS)
def test_a_key_log_while_a_library_is_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None, expected: str | None
) -> None:
    """A key log that cannot be written is unset during the import and restored afterwards."""
    value, expected = (each and each.format(tmp_path) for each in (value, expected))
    if value is not None:
        monkeypatch.setenv(KEY_LOG, value)
    with without_bad_key_log():
        assert os.environ.get(KEY_LOG) == expected
    assert os.environ.get(KEY_LOG) == value
