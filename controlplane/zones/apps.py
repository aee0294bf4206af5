from django.apps import AppConfig


class ZonesConfig(AppConfig):
    name = "controlplane.zones"
    label = "zones"
    verbose_name = "DNS zones"

    def ready(self) -> None:
        from controlplane.reconcile import watch

        watch.declare("Zone", "reconcile")
        watch.register("Zone", "controlplane.zones.reconciler.reconcile")
