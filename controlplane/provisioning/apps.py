from django.apps import AppConfig


class ProvisioningConfig(AppConfig):
    name = "controlplane.provisioning"
    label = "provisioning"
    verbose_name = "Provisioning"

    def ready(self) -> None:
        from controlplane.provisioning import instance, node
        from controlplane.reconcile import watch

        watch.register("Instance", instance.reconcile)
        watch.register("Node", node.reconcile, lease_s=180)
        watch.watch("Certificate", lambda key: [("Instance", key)])
