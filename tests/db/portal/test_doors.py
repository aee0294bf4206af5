"""Ways in: signing in, invitations, a billing system's links. Each is good for whom it is for, once, in time."""

from __future__ import annotations

import datetime
import re

import pytest
from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.core import mail
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from tenants import services
from tenants.models import AuditEvent, Invitation, LoginLink, Membership
from tenants.principal import ALL_SCOPES, SYSTEM
from tests.db.portal.conftest import PASSWORD

pytestmark = [pytest.mark.db, pytest.mark.django_db]


@pytest.fixture
def mails(settings):
    settings.ROOST = {**settings.ROOST, "MAIL": True}
    return mail.outbox


@pytest.fixture(autouse=True)
def fresh_limits():
    from django.core.cache import cache

    cache.clear()


def sign_in(client: Client, email: str, password: str = PASSWORD):
    return client.post("/accounts/login/", {"login": email, "password": password})


def link_in(text: str) -> str:
    return re.search(r"http://[^/\s]+(/\S+)", text)[1]


# signing in


def test_by_address_and_password(person, acme):
    person("anna@acme.example", (acme, "owner"))
    client = Client()
    assert sign_in(client, "anna@acme.example", "wrong").status_code == 200
    answer = sign_in(client, "anna@acme.example")
    assert (answer.status_code, answer["Location"]) == (302, "/portal/")
    assert client.get("/portal/")["Location"] == "/portal/o/acme/"


def test_nobody_signs_up(db):
    client = Client()
    answer = client.post("/accounts/signup/", {"email": "x@example.org", "password1": PASSWORD, "password2": PASSWORD})
    assert b"invitation" in answer.content
    assert not UserSession.objects.exists()
    assert client.get("/portal/").status_code == 302


def test_guessing_ends(person, acme):
    person("anna@acme.example", (acme, "owner"))
    client = Client()
    for _ in range(10):
        sign_in(client, "anna@acme.example", "wrong")
    answer = sign_in(client, "anna@acme.example")
    assert answer.status_code in (200, 429), "the right password comes too late as well"
    assert client.get("/portal/").status_code == 302
    assert "_auth_user_id" not in client.session


def test_a_second_factor_is_asked_for_and_sealed(person, acme):
    from allauth.mfa.adapter import get_adapter
    from allauth.mfa.totp.internal import auth as totp

    user = person("anna@acme.example", (acme, "owner"))
    secret = totp.generate_totp_secret()
    Authenticator.objects.create(user=user, type="totp", data={"secret": get_adapter().encrypt(secret)})
    assert secret not in str(Authenticator.objects.get().data)
    client = Client()
    answer = sign_in(client, "anna@acme.example")
    assert answer["Location"].startswith("/accounts/2fa/authenticate/")
    assert client.get("/portal/o/acme/").status_code == 302
    assert client.post("/accounts/2fa/authenticate/", {"code": "000000"}).status_code == 200
    counter = next(iter(totp.yield_hotp_counters_from_time()))
    code = totp.format_hotp_value(totp.hotp_value(secret, counter))
    assert client.post("/accounts/2fa/authenticate/", {"code": code}).status_code == 302
    assert client.get("/portal/o/acme/").status_code == 200


def test_the_admin_s_form_is_no_way_around_a_second_factor(django_user_model, db):
    root = django_user_model.objects.create_superuser("root", password=PASSWORD)
    client = Client()
    data = {"username": "root", "password": PASSWORD}
    assert client.post("/admin/login/?next=/admin/", data).status_code == 302
    client.logout()
    Authenticator.objects.create(user=root, type="totp", data={"secret": "x"})
    answer = client.post("/admin/login/?next=/admin/", data)
    assert b"second factor" in answer.content
    assert client.get("/admin/").status_code == 302


def test_a_forgotten_password_by_mail(person, acme, mails):
    person("anna@acme.example", (acme, "owner"))
    client = Client()
    unknown = client.post("/accounts/password/reset/", {"email": "nobody@acme.example"})
    known = client.post("/accounts/password/reset/", {"email": "anna@acme.example"})
    assert (unknown.status_code, unknown["Location"]) == (known.status_code, known["Location"])
    [sent] = [one for one in mails if one.to == ["anna@acme.example"]]
    form = client.get(link_in(sent.body), follow=True)
    address = form.redirect_chain[-1][0]
    new = "another long walk in the sun"
    assert client.post(address, {"password1": new, "password2": new}).status_code == 302
    assert sign_in(Client(), "anna@acme.example", new).status_code == 302


def test_signing_out_everywhere_else(person, acme):
    person("anna@acme.example", (acme, "owner"))
    here, there = Client(), Client()
    for client in (here, there):
        sign_in(client, "anna@acme.example")
        client.get("/portal/o/acme/")
    assert UserSession.objects.count() == 2
    assert here.post("/accounts/sessions/").status_code == 302
    assert here.get("/portal/o/acme/").status_code == 200
    assert there.get("/portal/o/acme/").status_code == 302


# invitations


def test_the_whole_way_of_an_invitation(owner, acme, mails):
    assert owner.post("/portal/o/acme/people/invite/", {"email": "New@Example.org", "role": "admin"}).status_code == 302
    [sent] = mails
    assert sent.to == ["new@example.org"]
    link = link_in(sent.body)
    newcomer = Client()
    answer = newcomer.get(link)
    assert answer["Referrer-Policy"] == "same-origin"
    assert Membership.objects.filter(user__username="new@example.org").count() == 0, "a GET changes nothing"
    assert b"Acme" in newcomer.get("/portal/invitation/").content
    weak = newcomer.post("/portal/invitation/", {"password": "password1234"})
    assert weak.status_code == 422
    done = newcomer.post("/portal/invitation/", {"password": PASSWORD, "first_name": "Nora <b>New</b>"})
    assert done["Location"] == "/portal/o/acme/"
    assert newcomer.get("/portal/o/acme/").status_code == 200
    assert Membership.objects.get(user__username="new@example.org").role == "admin"
    again = Client()
    again.get(link)
    assert again.get("/portal/invitation/").status_code == 404, "once"
    assert {"people.invite", "people.join"} <= set(AuditEvent.objects.values_list("action", flat=True))
    assert b"&lt;b&gt;" in owner.get("/portal/o/acme/people/").content


def test_without_a_mail_server_the_link_is_shown_once(owner, acme):
    answer = owner.post("/portal/o/acme/people/invite/", {"email": "new@example.org", "role": "reader"})
    link = link_in(answer.content.decode())
    assert "no-store" in answer["Cache-Control"]
    assert link not in owner.get("/portal/o/acme/people/").content.decode()


@pytest.mark.parametrize("change", ["expired", "withdrawn", "renewed", "forged"])
def test_what_does_not_count_any_more(change, acme):
    row, text = services.invite(organisation=acme, email="new@example.org", role="reader", principal=SYSTEM)
    link = text.reveal()
    if change == "expired":
        Invitation.objects.update(expires_at=timezone.now() - datetime.timedelta(seconds=1))
    elif change == "withdrawn":
        services.withdraw_invitation(invitation=row, principal=SYSTEM)
    elif change == "renewed":
        services.renew_invitation(invitation=row, principal=SYSTEM)
    else:
        link = link[:-2] + ("AA" if link[-2:] != "AA" else "BB")
    client = Client()
    client.get(f"/portal/invitation/{link}/")
    assert client.get("/portal/invitation/").status_code == 404
    assert client.post("/portal/invitation/", {"password": PASSWORD}).status_code == 404
    assert not Membership.objects.exists()


def test_an_invitation_is_for_one_address(person, acme, globex):
    person("other@globex.example", (globex, "owner"))
    _, text = services.invite(organisation=acme, email="new@example.org", role="owner", principal=SYSTEM)
    client = Client()
    sign_in(client, "other@globex.example")
    client.get(f"/portal/invitation/{text.reveal()}/")
    client.post("/portal/invitation/")
    assert not Membership.objects.filter(organisation=acme).exists()


def test_who_has_an_account_joins_with_it(person, acme, globex):
    user = person("two@example.org", (globex, "reader"))
    _, text = services.invite(organisation=acme, email="two@example.org", role="admin", principal=SYSTEM)
    client = Client()
    client.get(f"/portal/invitation/{text.reveal()}/")
    # Not logged in, the account is not changed by who has the link alone.
    client.post("/portal/invitation/", {"password": "stolen stolen stolen"})
    assert not Membership.objects.filter(user=user, organisation=acme).exists()
    assert sign_in(client, "two@example.org").status_code == 302
    assert client.post("/portal/invitation/")["Location"] == "/portal/o/acme/"
    assert Membership.objects.get(user=user, organisation=acme).role == "admin"


# a billing system's link


@pytest.fixture
def billing(db):
    _, text = services.create_token(name="billing", scopes=sorted(ALL_SCOPES), principal=SYSTEM)
    client = APIClient(raise_request_exception=False)
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {text.reveal()}")
    return client


def ask(billing, **more):
    return billing.post("/api/v1/organisations/acme/login-links/", {"user": "anna@acme.example", **more})


def test_a_link_logs_in_once_and_for_one_organisation(billing, person, acme, globex):
    person("anna@acme.example", (acme, "owner"), (globex, "owner"))
    answer = ask(billing)
    assert answer.status_code == 201, answer.data
    assert answer["Cache-Control"] == "no-store"
    path = link_in(answer.data["url"])
    client = Client()
    client.get(path)
    assert LoginLink.objects.get().used_at is None, "a GET changes nothing"
    assert client.post("/portal/enter/")["Location"] == "/portal/o/acme/"
    assert client.get("/portal/o/acme/").status_code == 200
    assert client.get("/portal/o/globex/").status_code == 404
    assert client.get("/api/v1/organisations/globex/").status_code == 404
    second = Client()
    second.get(path)
    assert second.post("/portal/enter/").status_code == 404
    assert {"people.login_link", "people.login"} <= set(AuditEvent.objects.values_list("action", flat=True))
    # With the own password in the same browser one is at home everywhere again.
    client.post("/accounts/logout/")
    sign_in(client, "anna@acme.example")
    assert client.get("/portal/o/globex/").status_code == 200


def test_a_link_does_not_spare_the_second_factor_and_changes_no_password(billing, person, acme):
    user = person("anna@acme.example", (acme, "owner"))
    client = Client()
    client.get(link_in(ask(billing).data["url"]))
    client.post("/portal/enter/")
    assert "/accounts/reauthenticate/" in client.get("/accounts/2fa/totp/activate/")["Location"]
    Authenticator.objects.create(user=user, type="totp", data={"secret": "x"})
    other = Client()
    other.get(link_in(ask(billing).data["url"]))
    assert other.post("/portal/enter/")["Location"].startswith("/accounts/2fa/authenticate/")
    assert other.get("/portal/o/acme/").status_code == 302


def test_a_link_runs_out_and_leads_nowhere_else(billing, person, acme):
    user = person("anna@acme.example", (acme, "owner"))
    path = link_in(ask(billing, ttl_s=1).data["url"])
    LoginLink.objects.update(expires_at=timezone.now() - datetime.timedelta(seconds=1))
    client = Client()
    client.get(path)
    assert client.post("/portal/enter/").status_code == 404
    for target in ("https://evil.example/", "//evil.example/", "/admin/", "/portal/\\evil", "/portal/\r\nX: y"):
        assert ask(billing, target=target).status_code in (400, 422), target
    assert ask(billing, user="nobody@acme.example").status_code == 422
    user.is_superuser = True
    user.save()
    assert ask(billing).status_code == 422, "never an operator"


def test_only_the_operator_makes_links(person, acme):
    person("anna@acme.example", (acme, "owner"))
    _, text = services.create_token(name="t", scopes=["read", "people"], organisation=acme, principal=SYSTEM)
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {text.reveal()}")
    assert ask(client).status_code == 403
    with pytest.raises(Exception, match="operator"):
        services.create_token(name="t", scopes=["logins"], organisation=acme, principal=SYSTEM)


# languages


def test_the_portal_speaks_german_and_the_api_english(owner, acme):
    assert "Kolleg" in owner.get("/portal/o/acme/", HTTP_ACCEPT_LANGUAGE="de").content.decode()
    page = Client().get("/accounts/login/", HTTP_ACCEPT_LANGUAGE="de")
    assert page["Content-Language"] == "de"
    assert 'lang="de"' in page.content.decode()
    answer = Client().get("/api/v1/organisations/", HTTP_ACCEPT_LANGUAGE="de")
    assert answer.json()["detail"] == "Authentication credentials were not provided."


def test_language_and_colours_are_the_browser_s(db):
    client = Client()
    assert client.post("/portal/appearance/", {"language": "de", "theme": "dark"}).status_code == 302
    page = client.get("/accounts/login/").content.decode()
    assert 'lang="de"' in page
    assert 'data-theme="dark"' in page
    answer = client.post("/portal/appearance/", {"language": "xx", "theme": '"><script>', "next": "//evil.example/"})
    assert answer["Location"] == "/portal/appearance/"
