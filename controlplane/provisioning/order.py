"""The steps of an instance, in the order in which they are tried and reversed when it is taken away."""

from __future__ import annotations

from controlplane.provisioning.steps.certificate_issued import CertificateIssued
from controlplane.provisioning.steps.dns_published import DnsPublished
from controlplane.provisioning.steps.domain_proven import DomainProven
from controlplane.provisioning.steps.edge_routed import EdgeRouted, EdgeUnrouted
from controlplane.provisioning.steps.node_assigned import NodeAssigned
from controlplane.provisioning.steps.server_running import ServerRunning, ServerStopped
from controlplane.provisioning.steps.turn_ready import TurnReady, TurnWithheld
from controlplane.provisioning.steps.verified import Verified
from controlplane.provisioning.subject import Subject
from controlplane.reconcile.step import Step

#: An instance that should run.
RUNNING: tuple[Step[Subject], ...] = (
    DomainProven(),
    NodeAssigned(),
    DnsPublished(),
    CertificateIssued(),
    TurnReady(),
    ServerRunning(),
    EdgeRouted(),
    Verified(),
)

#: One that is suspended, or terminated and still to be restored: reachable no more, everything else is kept.
STOPPED: tuple[Step[Subject], ...] = (
    DomainProven(),
    NodeAssigned(),
    DnsPublished(),
    CertificateIssued(),
    TurnWithheld(),
    EdgeUnrouted(),
    ServerStopped(),
    Verified(),
)

#: As people see them.
CONDITIONS = (*(step.condition for step in RUNNING), "Ready")
