from typing import Any

from django.apps import AppConfig


class MonitoringConfig(AppConfig):
    name = "controlplane.monitoring"
    label = "monitoring"
    verbose_name = "Monitoring"

    def ready(self) -> None:
        from django.db.models.signals import pre_delete

        from controlplane.reconcile import watch

        pre_delete.connect(_end_with_it, sender="tenants.Instance", dispatch_uid="incidents of an instance")
        pre_delete.connect(_end_with_it, sender="fleet.Node", dispatch_uid="incidents of a node")
        # Healing a link must wait neither for its instance's lease nor for a long pass of another kind.
        watch.declare("S2sLink", "heal")
        watch.register("S2sLink", "controlplane.monitoring.links.reconcile", lease_s=90)
        # Asking a node's engines for their links takes a moment, which no link that is being healed should wait for.
        watch.declare("Federation", "probe")
        watch.register("Federation", "controlplane.monitoring.links.collect_node", lease_s=60)
        watch.watch("Node", lambda name: [("Federation", name)])
        # Others' servers may let a notice wait: not on the queue on which links are healed.
        watch.declare("Notice", "probe")
        watch.register("Notice", "controlplane.monitoring.notices.reconcile", lease_s=60)
        watch.declare("Addresses", "heal")
        watch.register("Addresses", "controlplane.monitoring.addresses.reconcile", lease_s=60)
        watch.watch("Node", lambda name: [("Addresses", name)])
        watch.declare("Disk", "probe")
        watch.register("Disk", "controlplane.monitoring.disk.reconcile", lease_s=60)
        # Which room writes the conditions of backups is not known here, only that they change.
        watch.declare("BackupAlarm", "probe")
        watch.register("BackupAlarm", "controlplane.monitoring.saved.reconcile", lease_s=60)
        watch.watch("Backups", lambda key: [("BackupAlarm", key)])
        watch.declare("Roll", "probe")
        watch.register("Roll", "controlplane.monitoring.roll.reconcile", lease_s=60)
        # A server that comes back is looked at at once, before much has changed.
        watch.watch("Instance", lambda key: [("Roll", key)])


def _end_with_it(instance: Any, **_: Any) -> None:
    """What was wrong with it is over when it is gone: nobody would look at it again, and the incident stay open."""
    from controlplane.monitoring import incidents

    for subject in instance.incidents.filter(ended_at=None).values_list("subject", flat=True):
        incidents.end_incident(subject, "It is not there any more.")
