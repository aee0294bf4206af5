"""What instances should be: creation, changes, ends, quotas, and what each leaves in audit, history and queue."""

from __future__ import annotations

import datetime

import pytest
from django.utils import timezone

from controlplane.reconcile.models import Event, WorkItem
from controlplane.values.errors import InvalidInput
from tenants import services
from tenants.errors import QuotaExceeded, Taken, WrongState
from tenants.models import AuditEvent, Domain, Instance
from tenants.principal import SYSTEM

pytestmark = [pytest.mark.db, pytest.mark.django_db]


def last_audit() -> AuditEvent:
    return AuditEvent.objects.order_by("-id")[0]


def queue_is_due(key: str) -> bool:
    return WorkItem.objects.filter(kind="Instance", object_id=key, due_at__lte=timezone.now()).exists()


def test_a_new_instance_is_clean_audited_and_due(make, acme):
    instance = make(
        acme,
        "Acme.roost.example.",
        display_name=" The  Acme ",
        language="DE-at",
        contacts=[{"kind": "abuse", "uri": "mailto:abuse@acme.example"}],
        admins=["Alice@acme.roost.example"],
        s2s_blocked=["SPAM.example"],
    )
    instance.refresh_from_db()
    assert instance.domain.name == "acme.roost.example"
    assert instance.domain.mode == "provider"
    assert instance.domain.proven_at is not None
    assert (instance.display_name, instance.language) == ("The  Acme", "de-AT")
    assert instance.admins == ["alice@acme.roost.example"]
    assert instance.s2s_blocked == ["spam.example"]
    assert queue_is_due(instance.key)
    event = last_audit()
    assert (event.actor, event.action, event.object_id) == ("olga", "instance.create", instance.key)
    assert (event.organisation, event.address) == ("acme", "192.0.2.7")
    assert Event.objects.get(object_id=instance.key).type == "Created"


def test_an_own_domain_waits_for_its_proof(make, acme, operator):
    instance = make(acme, "chat.acme-corp.example")
    assert instance.domain.mode == "own"
    assert instance.domain.proven_at is None
    assert len(instance.domain.proof_token) >= 24
    WorkItem.objects.all().delete()
    services.mark_domain_proven(domain=instance.domain, method="txt", principal=operator)
    assert Domain.objects.get().proof_method == "txt"
    assert queue_is_due(instance.key)
    assert last_audit().action == "domain.prove"


@pytest.mark.parametrize(
    ("domain", "part"),
    [
        ("localhost", "one label"),
        ("chat.local", "reserved"),
        ("a.b.onion", "reserved"),
        ("acme.test", "reserved"),
        ("127.0.0.1", "IP address"),
        ("co.uk", "public suffix"),
        ("github.io", "public suffix"),
        ("edge.roost.example", "reserved for the provider"),
        ("turn.roost.example", "reserved for the provider"),
        ("a.b.roost.example", "exactly one label"),
        ("roost.example", "exactly one label"),
        ("example", "one label"),
        ("a." + "b" * 63 + "." + "c" * 63 + "." + "d" * 63 + "." + "e" * 30 + ".org", "too long"),
        ("x_y.example.org", "not a valid"),
        ("a b.acme.org", "spaces"),
    ],
)
def test_names_that_nobody_may_have(make, acme, domain, part):
    with pytest.raises(InvalidInput) as caught:
        make(acme, domain)
    assert caught.value.field == "domain"
    assert part in caught.value.message
    assert not Instance.objects.exists()
    assert not Domain.objects.exists()


def test_only_a_proven_claim_keeps_others_away(make, acme, globex, operator):
    ours = make(acme, "chat.corp.example")
    theirs = make(globex, "chat.corp.example")
    services.mark_domain_proven(domain=theirs.domain, method="txt", principal=operator)
    with pytest.raises(Taken):
        services.mark_domain_proven(domain=ours.domain, method="txt", principal=operator)
    with pytest.raises(Taken):
        make(acme, "below.chat.corp.example")


def test_a_service_name_of_another_instance_is_taken(make, acme, globex, operator):
    ours = make(acme, "corp.example")
    services.mark_domain_proven(domain=ours.domain, method="txt", principal=operator)
    with pytest.raises(Taken, match="below a domain of another"):
        make(globex, "conference.corp.example")
    with pytest.raises(Taken, match="service"):
        make(acme, "upload.corp.example")
    make(acme, "branch.corp.example")


def test_a_domain_whose_service_name_another_has(make, acme, globex, operator):
    theirs = make(globex, "conference.corp.example")
    services.mark_domain_proven(domain=theirs.domain, method="txt", principal=operator)
    with pytest.raises(Taken, match=r"conference\.corp\.example is taken"):
        make(acme, "corp.example")


def test_the_plan_limits_instances(make, acme, plan, operator):
    for number in range(3):
        make(acme, f"acme{number}.roost.example")
    with pytest.raises(QuotaExceeded) as caught:
        make(acme, "acme9.roost.example")
    assert caught.value.field == "plan"
    assert caught.value.remedy
    large = services.create_plan(slug="large", name="Large", max_instances=1, principal=operator)
    services.change_plan(instance=Instance.objects.earliest("pk"), plan=large, principal=operator)
    with pytest.raises(QuotaExceeded):
        services.change_plan(instance=Instance.objects.latest("pk"), plan=large, principal=operator)


def test_a_closed_plan_takes_nobody(make, acme, plan, operator):
    services.update_plan(plan=plan, open=False, principal=operator)
    plan.refresh_from_db()
    with pytest.raises(InvalidInput, match="closed"):
        make(acme, "acme.roost.example")


def test_a_change_raises_the_generation_once(make, acme, operator):
    instance = make(acme, "acme.roost.example")
    changed = services.change_instance(instance=instance, language="fr", principal=operator)
    assert (changed.language, changed.generation) == ("fr", 2)
    count = AuditEvent.objects.count()
    again = services.change_instance(instance=instance, language="fr", principal=operator)
    assert again.generation == 2
    assert AuditEvent.objects.count() == count


def test_suspend_and_resume(make, acme, operator):
    instance = make(acme, "acme.roost.example")
    instance = services.suspend_instance(instance=instance, reason="unpaid", principal=operator)
    assert not instance.should_run
    assert last_audit().data == {"reason": "unpaid"}
    count = AuditEvent.objects.count()
    services.suspend_instance(instance=instance, reason="unpaid", principal=operator)
    assert AuditEvent.objects.count() == count
    instance = services.unsuspend_instance(instance=instance, principal=operator)
    assert instance.should_run
    assert instance.generation == 3


def test_a_termination_can_be_undone_until_its_time(make, acme, operator):
    instance = make(acme, "acme.roost.example")
    with pytest.raises(WrongState):
        services.restore_instance(instance=instance, principal=operator)
    instance = services.terminate_instance(instance=instance, grace_s=3600, principal=operator)
    assert not instance.should_run
    assert not instance.deletion_due
    with pytest.raises(WrongState):
        services.change_instance(instance=instance, language="de", principal=operator)
    with pytest.raises(WrongState):
        services.finish_deletion(instance=instance)
    instance = services.restore_instance(instance=instance, principal=operator)
    assert instance.should_run
    instance = services.terminate_instance(instance=instance, grace_s=0, principal=operator)
    assert instance.deletion_due
    with pytest.raises(WrongState, match="over"):
        services.restore_instance(instance=instance, principal=operator)


@pytest.mark.parametrize("grace", [-1, 91 * 86400, True, 1.5])
def test_a_senseless_grace_time_is_refused(make, acme, operator, grace):
    instance = make(acme, "acme.roost.example")
    with pytest.raises(InvalidInput) as caught:
        services.terminate_instance(instance=instance, grace_s=grace, principal=operator)
    assert caught.value.field == "grace_s"


def test_the_end_leaves_the_name_free_and_the_audit_full(make, acme, globex, operator):
    instance = make(acme, "acme.roost.example")
    services.terminate_instance(instance=instance, grace_s=0, principal=operator)
    services.finish_deletion(instance=instance)
    services.finish_deletion(instance=instance)
    assert not Instance.objects.exists()
    assert not Domain.objects.exists()
    actions = list(AuditEvent.objects.filter(object_id=instance.key).order_by("id").values_list("actor", "action"))
    assert actions == [
        ("olga", "instance.create"),
        ("olga", "instance.terminate"),
        (SYSTEM.name, "instance.delete"),
    ]
    assert Event.objects.filter(object_id=instance.key).latest("id").type == "Deleted"
    make(globex, "acme.roost.example")


@pytest.mark.parametrize("what", ["turn", "certificate", "probe"])
def test_rotation_raises_its_counter(make, acme, operator, what):
    instance = make(acme, "acme.roost.example")
    instance = services.rotate(instance=instance, what=what, principal=operator)
    assert getattr(instance, f"rotate_{what}") == 1
    assert instance.generation == 2


def test_what_cannot_be_rotated(make, acme, operator):
    with pytest.raises(InvalidInput):
        services.rotate(instance=make(acme, "acme.roost.example"), what="tyres", principal=operator)


def test_reverify_asks_for_another_walk(make, acme, operator):
    instance = services.reverify_instance(instance=make(acme, "acme.roost.example"), principal=operator)
    assert instance.verify_generation == 2


def test_a_changed_plan_touches_its_instances(make, acme, plan, operator):
    instance = make(acme, "acme.roost.example")
    WorkItem.objects.all().delete()
    services.update_plan(plan=plan, memory_mib=256, principal=operator)
    instance.refresh_from_db()
    assert instance.generation == 2
    assert queue_is_due(instance.key)


def test_deletion_is_not_due_before_its_time(make, acme, operator):
    instance = services.terminate_instance(instance=make(acme, "acme.roost.example"), grace_s=60, principal=operator)
    Instance.objects.filter(pk=instance.pk).update(delete_after=timezone.now() - datetime.timedelta(seconds=1))
    instance.refresh_from_db()
    assert instance.deletion_due
