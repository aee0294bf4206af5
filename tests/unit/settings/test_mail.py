"""ROOST_MAIL_URL: how the mail server is named, and what is wrong if it is not."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured

from controlplane.settings import environment


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://u%40x:p%2Fw@mail.example", ("mail.example", 587, "u@x", "p/w", True, False)),
        ("smtps://mail.example", ("mail.example", 465, "", "", False, True)),
        ("smtp+plain://127.0.0.1:2525", ("127.0.0.1", 2525, "", "", False, False)),
    ],
)
def test_it_is_read(monkeypatch, url, expected):
    monkeypatch.setenv("ROOST_MAIL_URL", url)
    found = environment.mail("ROOST_MAIL_URL")
    assert tuple(found[key] for key in ("HOST", "PORT", "USER", "PASSWORD", "TLS", "SSL")) == expected


def test_without_it_there_is_no_mail(monkeypatch):
    monkeypatch.delenv("ROOST_MAIL_URL", raising=False)
    assert environment.mail("ROOST_MAIL_URL") == {}


@pytest.mark.parametrize("url", ["http://mail.example", "smtp://", "smtp://mail.example:no", "mail.example"])
def test_what_does_not_fit_is_named(monkeypatch, url):
    monkeypatch.setenv("ROOST_MAIL_URL", url)
    with pytest.raises(ImproperlyConfigured, match="ROOST_MAIL_URL"):
        environment.mail("ROOST_MAIL_URL")
