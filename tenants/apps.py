from django.apps import AppConfig


class TenantsConfig(AppConfig):
    name = "tenants"
    verbose_name = "Tenants"

    def ready(self) -> None:
        from controlplane.reconcile import watch

        watch.declare("Instance", "reconcile")
