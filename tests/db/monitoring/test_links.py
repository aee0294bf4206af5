"""Links are found by what engines say, one row per remote, and their one work item is due when somebody asks."""

from __future__ import annotations

import pytest

from controlplane.drivers.engine.base import S2sConnection
from controlplane.monitoring import incidents, links
from controlplane.monitoring.links import sighted
from controlplane.monitoring.links.told import subject_of
from controlplane.monitoring.models import Incident, S2sLink
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.models import WorkItem
from tenants import services as tenants
from tenants.models import Instance
from tenants.principal import SYSTEM

pytestmark = [pytest.mark.db, pytest.mark.django_db]

ACME, GLOBEX = "acme.roost.example", "globex.roost.example"


def stream(direction: str, local: str, remote: str, **more: object) -> S2sConnection:
    return S2sConnection(direction, local, remote, True, "certificate", "192.0.2.7", **more)  # type: ignore[arg-type]


@pytest.fixture
def pair() -> tuple[Instance, Instance]:
    plan = tenants.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    made = []
    for slug in ("acme", "globex"):
        organisation = tenants.create_organisation(slug=slug, name=slug, principal=SYSTEM)
        made.append(
            tenants.create_instance(
                organisation=organisation,
                domain=f"{slug}.roost.example",
                engine="prosody",
                plan=plan,
                principal=SYSTEM,
            )
        )
    return made[0], made[1]


def items() -> list[str]:
    return sorted(WorkItem.objects.filter(kind="S2sLink").values_list("object_id", flat=True))


def test_streams_of_components_belong_to_the_link_of_their_domain(pair):
    acme, globex = pair
    found = sighted.record(
        acme,
        [
            stream("in", f"conference.{ACME}", GLOBEX, age_s=5.0, idle_s=2.0),
            stream("out", ACME, GLOBEX, age_s=9.0, idle_s=4.0),
            stream("out", ACME, f"conference.{GLOBEX}"),
            stream("out", ACME, "far.example", age_s=1.0, idle_s=7200.0),
            stream("in", "stranger.example", "far.example"),
        ],
    )
    assert [(row.remote, row.peer) for row in found] == [("far.example", None), (GLOBEX, globex)]
    link = S2sLink.objects.get(instance=acme, remote=GLOBEX)
    assert link.directions["out"]["age_s"] == 9.0
    assert len(link.streams) == 3
    mirror = S2sLink.objects.get(instance=globex)
    assert (mirror.remote, mirror.peer) == (ACME, acme)
    far = S2sLink.objects.get(remote="far.example")
    assert (far.last_seen_at - far.used_at).total_seconds() == pytest.approx(7200)
    assert items() == sorted([str(min(link.pk, mirror.pk)), str(far.pk)])


def test_streams_that_are_gone_are_no_longer_told(pair):
    acme, _ = pair
    sighted.record(acme, [stream("out", ACME, "far.example", idle_s=3.0)])
    before = S2sLink.objects.get(remote="far.example")
    assert sighted.record(acme, []) == []
    after = S2sLink.objects.get(remote="far.example")
    assert (after.streams, after.directions) == ([], {})
    assert (after.used_at, after.last_seen_at) == (before.used_at, before.last_seen_at)


def test_a_suspect_is_due_once_for_both_ends(pair):
    acme, globex = pair
    first = links.suspect(acme, f"conference.{GLOBEX}", by="watcher", message="nothing moves")
    assert first is not None
    assert (first.instance, first.remote, first.state) == (acme, GLOBEX, S2sLink.SUSPECT)
    again = links.suspect(globex, ACME, by="verify")
    assert again is not None
    assert (again.instance, again.suspect_by) == (globex, "watcher")
    assert items() == [str(min(first.pk, again.pk))]
    assert links.suspect(acme, f"upload.{ACME}", by="watcher") is None


def test_a_claimed_domain_is_not_taken_for_its_server(pair):
    acme, globex = pair
    globex.domain.proven_at = None
    globex.domain.save()
    link = links.suspect(acme, GLOBEX, by="watcher")
    assert link is not None
    assert link.peer is None


@pytest.mark.parametrize("first", [0, 1])
def test_a_link_ends_with_either_of_our_servers_and_so_do_its_incidents(pair, first):
    """Whichever of the two rows has the work item: nobody pings what is gone, and nobody is told that it is broken."""
    staying, ending = pair
    for owner in (pair[first], pair[1 - first]):
        sighted.record(owner, [stream("out", owner.domain.name, GLOBEX if owner is staying else ACME)])
    sighted.record(staying, [stream("out", ACME, "far.example")])
    for row in S2sLink.objects.all():
        incidents.open_incident(
            kind="link", subject=subject_of(row), cause="LinkSilent", title="t", message="m", instance=row.instance
        )
    assert Incident.objects.filter(ended_at=None).count() == 3
    due = items()
    ending.delete()
    assert list(S2sLink.objects.values_list("remote", flat=True)) == ["far.example"]
    far = str(S2sLink.objects.get().pk)
    for gone in set(due) - {far}:
        assert links.reconcile(Lease(0, "S2sLink", gone, "heal", 1, 0)) is None
    assert items() == [far]
    assert [row.subject for row in Incident.objects.filter(ended_at=None)] == [f"link:{staying.key}:far.example"]


def test_an_address_that_changed_makes_all_links_wait_for_proof(pair):
    acme, _ = pair
    sighted.record(acme, [stream("out", ACME, GLOBEX), stream("in", ACME, "far.example")])
    S2sLink.objects.create(instance=acme, remote="unwanted.example", state=S2sLink.BLOCKED)
    WorkItem.objects.filter(kind="S2sLink").delete()
    incident, _ = incidents.open_incident(
        kind="address", subject="node:n1:address", cause="AddressChanged", title="t", message="m"
    )
    made = links.address_changed([acme], incident)
    left = links.unproven(incident)
    assert {(row.instance.domain.name, row.remote) for row in left} == {
        (ACME, GLOBEX),
        (GLOBEX, ACME),
        (ACME, "far.example"),
    }
    assert {row.suspect_by for row in left} == {"address"}
    assert items() == sorted(map(str, made))
    assert len(made) == 2
