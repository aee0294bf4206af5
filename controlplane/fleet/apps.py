from django.apps import AppConfig


class FleetConfig(AppConfig):
    name = "controlplane.fleet"
    label = "fleet"
    verbose_name = "Fleet"

    def ready(self) -> None:
        from controlplane.reconcile import watch

        watch.declare("Node", "node")
        watch.declare("Rollout", "node")
