"""Pages and forms: hostile input is shown as text, nothing runs, and long lists cost few queries."""

from __future__ import annotations

import datetime

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from controlplane.drivers.engine.base import Account, Room, RoomSettings
from controlplane.monitoring.models import Incident, S2sLink
from controlplane.provisioning import accounts
from controlplane.values.errors import Unavailable
from controlplane.values.names import Jid, Localpart
from controlplane.values.secret import Secret
from tenants.models import AuditEvent, Domain, Instance, Membership, Organisation

pytestmark = [pytest.mark.db, pytest.mark.django_db]

MANY = 5000
QUERIES = 12
EVIL = "<script>alert(1)</script>"
HOSTILE = [
    EVIL,
    '"><img src=x onerror=alert(1)>',
    "a\0b",
    "a" * 5000,
    "\u202eevil",
    "{{ 7|add:7 }}",
    "'; DROP TABLE tenants_instance; --",
    "../../admin/",
    "a@b@c",
    "ａlice",
    "\ud800",
]


def base(instance: Instance) -> str:
    return f"/portal/s/{instance.key}/"


# many rows


@pytest.fixture
def many(instance, acme, plan, control):
    """5,000 rows behind every list."""
    now = timezone.now()
    domains = Domain.objects.bulk_create(
        Domain(name=f"d{n}.example", organisation=acme, mode="own", proven_at=now) for n in range(MANY)
    )
    Instance.objects.bulk_create(
        Instance(key=f"k{n:07}", organisation=acme, domain=domain, plan=plan, engine="prosody")
        for n, domain in enumerate(domains)
    )
    S2sLink.objects.bulk_create(S2sLink(instance=instance, remote=f"r{n}.example", state="down") for n in range(MANY))
    Incident.objects.bulk_create(
        Incident(
            kind="check",
            subject=f"s{n}",
            scope="acme",
            instance=instance,
            cause="LoginFails",
            title=f"t{n}",
            started_at=now,
            ended_at=now if n % 2 else None,
        )
        for n in range(MANY)
    )
    users = get_user_model().objects.bulk_create(get_user_model()(username=f"u{n}@acme.example") for n in range(MANY))
    Membership.objects.bulk_create(Membership(user=user, organisation=acme, role="reader") for user in users)
    control.accounts = {Localpart(f"m{n}"): Account(Localpart(f"m{n}"), True) for n in range(MANY)}
    everybody = {f"m{n}@acme.roost.example": "member" for n in range(MANY)}
    control.rooms = {
        Localpart(f"r{n}"): Room(Localpart(f"r{n}"), RoomSettings(), affiliations=everybody) for n in range(MANY)
    }
    return instance


def test_long_lists_cost_few_queries(owner, many):
    paths = ["/portal/o/acme/", "/portal/o/acme/people/", "/portal/o/acme/incidents/"]
    paths += [f"{base(many)}{name}/" for name in ("members", "rooms", "rooms/r7/people", "federation", "reliability")]
    for path in (*paths, *(f"{path}?page=50" for path in paths), *(f"{path}?q=7" for path in paths)):
        with CaptureQueriesContext(
            connection,
        ) as seen:
            answer = owner.get(path)
        assert answer.status_code == 200, path
        assert len(seen) <= QUERIES, (path, len(seen), [query["sql"][:120] for query in seen])
        assert len(answer.content) < 250_000, "a page, not all of it"


def test_an_operator_s_list_of_organisations(client, django_user_model, db):
    Organisation.objects.bulk_create(Organisation(slug=f"o{n}", name=f"O {n}") for n in range(MANY))
    client.force_login(django_user_model.objects.create_superuser("root"), "django.contrib.auth.backends.ModelBackend")
    with CaptureQueriesContext(connection) as seen:
        answer = client.get("/portal/?q=77")
    assert answer.status_code == 200
    assert b"O 4977" not in answer.content or b"O 77" in answer.content
    assert len(seen) <= QUERIES


# hostile input


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_every_form_is_refused_or_text(text, owner, instance, control):
    control.create_account(Localpart("alice"), Secret("secret-secret"))
    control.create_room(Localpart("lobby"), RoomSettings(), Jid.parse("alice@acme.roost.example"))
    forms = {
        "new-member/": {"username": text, "password": text},
        "import-members/": {"text": f"{text},{text}\n{text}"},
        "password/": {"username": text, "password": text},
        "members/alice/password/": {"password": text},
        "members/alice/delete/": {"name": text},
        "new-room/": {"preset": text, "name": text, "title": text, "description": text, "owner": text},
        "rooms/lobby/": {"title": text, "description": text, "access": text, "anonymity": text, "language": text},
        "rooms/lobby/people/": {"jid": text, "affiliation": "member"},
        "rooms/lobby/people/import/": {"text": f"{text},{text}"},
        "rooms/lobby/delete/": {"name": text},
    }
    for path, data in forms.items():
        safe = {name: value.encode("utf-8", "surrogatepass").decode("utf-8", "replace") for name, value in data.items()}
        answer = owner.post(base(instance) + path, safe)
        assert answer.status_code in (200, 302, 422), (path, answer.status_code)
        assert EVIL.encode() not in answer.content, path
        assert b"<img src=x" not in answer.content, path
    safe_text = text.encode("utf-8", "replace").decode()
    answer = owner.post("/portal/o/acme/people/invite/", {"email": safe_text, "role": safe_text[:9]})
    assert answer.status_code == 422
    assert Localpart("alice") in control.accounts
    assert Localpart("lobby") in control.rooms


@pytest.mark.parametrize("text", HOSTILE[:-1])
def test_hostile_text_in_addresses_and_searches(text, owner, instance, control):
    from urllib.parse import quote

    for path in (
        f"{base(instance)}members/",
        f"{base(instance)}rooms/",
        f"{base(instance)}federation/",
        "/portal/o/acme/",
    ):
        answer = owner.get(path, {"q": text, "state": text, "page": text})
        assert answer.status_code in (200, 404), path
        assert EVIL.encode() not in answer.content
    quoted = quote(text, safe="")
    for path in (f"members/{quoted}/", f"rooms/{quoted}/", f"federation/{quoted}/retry/"):
        assert owner.get(base(instance) + path).status_code in (404, 405), path
    assert owner.get(f"/portal/s/{quoted}/").status_code == 404


def test_every_page_has_a_strict_policy(owner, instance, control):
    for path in (
        "/portal/o/acme/",
        base(instance),
        "/accounts/login/",
        "/accounts/2fa/",
        "/accounts/email/",
        "/status/",
    ):
        answer = owner.get(path, follow=True)
        policy = answer["Content-Security-Policy"]
        assert "unsafe" not in policy, path
        text = answer.content.decode()
        assert "style=" not in text, path
        assert "<style" not in text, path
        assert " onclick" not in text, path
        assert "http://" not in text.replace("http://www.w3.org", "").replace("http://localhost:8000", ""), path


def test_who_cannot_be_asked_says_so(owner, instance, monkeypatch):
    def away(**_):
        raise Unavailable("The machine is not reached.", remedy="Try again later.")

    monkeypatch.setattr(accounts, "list_accounts", away)
    answer = owner.get(f"{base(instance)}members/")
    assert answer.status_code == 503
    assert b"The machine is not reached. Try again later." in answer.content


# members


def test_a_member_from_new_to_gone(owner, instance, control):
    made = owner.post(f"{base(instance)}new-member/", {"username": "Anna"})
    password = control.passwords["anna"]
    assert password in made.content.decode()
    assert password not in owner.get(f"{base(instance)}members/anna/").content.decode()
    assert owner.post(f"{base(instance)}new-member/", {"username": "anna"}).status_code == 422
    owner.post(f"{base(instance)}members/anna/disable/")
    assert not control.accounts[Localpart("anna")].enabled
    owner.post(f"{base(instance)}members/anna/enable/")
    assert control.accounts[Localpart("anna")].enabled
    owner.post(f"{base(instance)}members/anna/password/", {"password": "  spaces count  "})
    assert control.passwords["anna"] == "  spaces count  "
    assert owner.post(f"{base(instance)}members/anna/delete/", {"name": "bert"}).status_code == 422
    assert Localpart("anna") in control.accounts
    owner.post(f"{base(instance)}members/anna/delete/", {"name": "anna"})
    assert Localpart("anna") not in control.accounts
    said = list(AuditEvent.objects.filter(kind="Account").values_list("action", flat=True).order_by("id"))
    assert said == ["account.create", "account.disable", "account.enable", "account.set_password", "account.delete"]


def test_an_import_previews_and_then_does(owner, instance, control):
    control.create_account(Localpart("here"), Secret("secret-secret"))
    text = "username;password\nanna;\nhere;\nbert;short\nanna;\ncarl;long enough\n@bad;\n"
    preview = owner.post(f"{base(instance)}import-members/", {"text": text}).content.decode()
    assert "2 accounts would be made" in preview
    assert set(control.accounts) == {Localpart("here")}, "nothing is changed yet"
    done = owner.post(f"{base(instance)}import-members/", {"text": text, "sure": "yes"}).content.decode()
    assert {a.text for a in control.accounts} == {"here", "anna", "carl"}
    assert control.passwords["anna"] in done
    assert control.passwords["carl"] == "long enough"
    assert control.passwords["here"] == "secret-secret"
    again = owner.post(f"{base(instance)}import-members/", {"text": text, "sure": "yes"}).content.decode()
    assert "0 accounts were made" in again


@pytest.mark.parametrize(
    "data", [b"\xff\xfe\x00", b"", b'a,"b\nc', b"x," * 20, b"\n".join(b"a%d" % n for n in range(300))]
)
def test_what_is_no_list_is_refused(data, owner, instance, control):
    from django.core.files.uploadedfile import SimpleUploadedFile

    answer = owner.post(f"{base(instance)}import-members/", {"file": SimpleUploadedFile("a.csv", data), "sure": "yes"})
    assert answer.status_code == 422
    assert not control.accounts


# rooms


@pytest.mark.parametrize(
    ("preset", "access", "anonymity", "moderated", "listed"),
    [
        ("team", "members", "none", False, True),
        ("announcement", "open", "semi", True, True),
        ("lobby", "open", "semi", False, True),
        ("private", "members", "none", False, False),
    ],
)
def test_presets(preset, access, anonymity, moderated, listed, owner, instance, control):
    form = owner.get(f"{base(instance)}new-room/?preset={preset}").content.decode()
    assert f'value="{preset}" checked' in form
    data = {"preset": preset, "name": "plaza", "title": "The plaza", "owner": "anna"}
    assert owner.post(f"{base(instance)}new-room/", data).status_code == 302
    room = control.rooms[Localpart("plaza")]
    assert room.settings == RoomSettings(
        title="The plaza", access=access, anonymity=anonymity, moderated=moderated, listed=listed, language="en"
    )
    assert room.affiliations == {"anna@acme.roost.example": "owner"}


def test_settings_as_a_whole_and_what_was_not_taken(owner, instance, control, monkeypatch):
    control.create_room(Localpart("plaza"), RoomSettings(listed=True), Jid.parse("a@acme.roost.example"))
    data = {
        "title": "T",
        "access": "members",
        "anonymity": "none",
        "moderated": "on",
        "archived": "on",
        "language": "DE",
    }
    page = owner.post(f"{base(instance)}rooms/plaza/", data, follow=True)
    wanted = RoomSettings(
        title="T", access="members", anonymity="none", moderated=True, listed=False, persistent=False, language="de"
    )
    assert control.rooms[Localpart("plaza")].settings == wanted
    assert b"did not take" not in page.content
    monkeypatch.setattr(control, "set_room_settings", lambda local, settings: None)
    page = owner.post(f"{base(instance)}rooms/plaza/", {**data, "moderated": ""}, follow=True)
    assert b"Prosody did not take: Newcomers only listen." in page.content


def test_the_matrix_and_the_last_owner(owner, instance, control):
    control.create_room(Localpart("plaza"), RoomSettings(), Jid.parse("a@acme.roost.example"))
    path = f"{base(instance)}rooms/plaza/people/"
    owner.post(path, {"jid": "b", "affiliation": "member"})
    owner.post(path, {"jid": "Spam@Evil.Example", "affiliation": "outcast"})
    affiliations = control.rooms[Localpart("plaza")].affiliations
    assert affiliations == {
        "a@acme.roost.example": "owner",
        "b@acme.roost.example": "member",
        "spam@evil.example": "outcast",
    }
    owner.post(path, {"as:a@acme.roost.example": "none"})
    assert control.rooms[Localpart("plaza")].affiliations["a@acme.roost.example"] == "owner", "the last one stays"
    owner.post(path, {"as:a@acme.roost.example": "none", "as:b@acme.roost.example": "owner", "as:x@y.example": "owner"})
    assert control.rooms[Localpart("plaza")].affiliations == {
        "b@acme.roost.example": "owner",
        "spam@evil.example": "outcast",
    }


def test_lists_of_people_go_out_and_come_in_again(owner, instance, control):
    control.create_room(Localpart("plaza"), RoomSettings(), Jid.parse("=cmd@acme.roost.example"))
    path = f"{base(instance)}rooms/plaza/people/"
    out = owner.get(f"{path}export/")
    assert out["Content-Disposition"] == 'attachment; filename="room-plaza.csv"'
    assert "'=cmd@acme.roost.example,owner" in out.content.decode(), "no formula for a spreadsheet"
    text = out.content.decode() + "b@acme.roost.example,admin\nc@acme.roost.example,boss\nnobody,member\n"
    preview = owner.post(f"{path}import/", {"text": text}).content.decode()
    assert "1 line would change something" in preview
    assert len(control.rooms[Localpart("plaza")].affiliations) == 1
    owner.post(f"{path}import/", {"text": text, "sure": "yes"})
    assert control.rooms[Localpart("plaza")].affiliations == {
        "=cmd@acme.roost.example": "owner",
        "b@acme.roost.example": "admin",
    }


# federation and reliability


def test_why_a_link_is_broken_and_whose_it_is(owner, instance):
    S2sLink.objects.create(instance=instance, remote="far.example", state="down", cause="PeerCertificateExpired")
    page = owner.get(f"{base(instance)}federation/").content.decode()
    assert "The certificate of the other server has expired." in page
    assert "operator has to mend it" in page
    before = S2sLink.objects.get().suspect_at
    assert owner.post(f"{base(instance)}federation/far.example/retry/").status_code == 302
    row = S2sLink.objects.get()
    assert (before, row.suspect_by) == (None, "operator")
    assert AuditEvent.objects.filter(action="link.retry", actor="owner@acme.example").exists()


def test_ninety_days_of_each_part(owner, instance):
    now = timezone.now()
    day = datetime.timedelta(days=1)
    Incident.objects.create(
        kind="check",
        subject="x:turn",
        scope="acme",
        instance=instance,
        cause="TurnUnreachable",
        title="calls",
        started_at=now - 3 * day,
        ended_at=now - 2 * day,
    )
    from controlplane.monitoring import status

    parts = {part.name: part for part in status.with_parts(instance, now)[1]}
    assert [day.level for day in parts["calls"].days].count("partial") == 2
    assert parts["calls"].uptime == 0, "nobody looked on other days"
    assert all(day.level == "none" for day in parts["login"].days)
    assert parts["login"].uptime is None
    assert owner.get(f"{base(instance)}reliability/").content.count(b'class="days"') == len(parts)
