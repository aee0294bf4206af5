"""DnsPublished: every record set that clients and peers need is at the authoritative servers.

Which ones is a pure plan; writing is the zone's own pass, in one request for all of its instances. Of a customer's
own zone we only look.
"""

from __future__ import annotations

from controlplane.provisioning.subject import Subject
from controlplane.reconcile.lease import Lease
from controlplane.values.outcome import Done, Outcome, Stalled, Wait
from controlplane.zones import services as zones

#: The zone's pass wakes the instance; this is only for the case that it cannot.
LOOK_AGAIN_S = 10.0
CUSTOMER_S = 60.0


class DnsPublished:
    condition = "DnsPublished"
    needs: tuple[str, ...] = ("DomainProven", "NodeAssigned")  # the node says which edges lead to it

    def observe(self, subject: Subject, lease: Lease) -> Outcome | None:
        addresses = subject.edge_addresses
        if not addresses:
            return _no_address(subject)
        wanted = zones.records_for(subject.instance, addresses)
        rows = zones.want_records(instance=subject.instance, wanted=wanted, lease=lease).rows
        if subject.instance.domain.mode == "own":
            zones.check_customer_records(subject.instance, addresses)
            rows = zones.records_of(subject.instance)
        state = zones.summary(subject.instance, rows)
        if state.conflicts:
            return Stalled(
                "Conflict",
                "Records that Roost did not make are in the way: " + "; ".join(state.conflicts) + ".",
                "Remove or rename them in the zone; Roost never overwrites them.",
            )
        if state.all_published:
            subject.published_addresses = addresses
            return Done("Published", f"{len(wanted)} record sets are at the authoritative servers.")
        if state.problems:
            return Wait("PublishFailed", " ".join(state.problems), LOOK_AGAIN_S, failed=True)
        if state.missing_customer:
            return Wait(
                "CustomerRecordsMissing",
                "To be published in the organisation's own zone: " + "; ".join(state.missing_customer) + ".",
                CUSTOMER_S,
            )
        return Wait("Publishing", "The zone's records are being written.", LOOK_AGAIN_S)

    def act(self, subject: Subject, lease: Lease) -> Outcome:
        raise AssertionError("observe always answers: the zone's own pass acts")

    def undo(self, subject: Subject, lease: Lease) -> Outcome:
        if zones.retire_records(instance=subject.instance, lease=lease):
            return Done()
        why = zones.still_there(subject.instance)
        return Wait("Retiring", f"The zone's records are being removed. {why}".strip(), LOOK_AGAIN_S)


def _no_address(subject: Subject) -> Outcome:
    """What is published stays until there is something better to say."""
    if not subject.edges:
        return Wait("NoEdge", "No edge leads to its node yet.", LOOK_AGAIN_S)
    names = ", ".join(edge.name for edge in subject.edges)
    return Stalled(
        "NoAddress",
        f"The edges that lead to it have no public address: {names}.",
        "Give the node of the edge its public addresses.",
    )
