from django.apps import AppConfig


class ProvisioningConfig(AppConfig):
    name = "controlplane.provisioning"
    label = "provisioning"
    verbose_name = "Provisioning"

    def ready(self) -> None:
        from controlplane.reconcile import watch

        watch.register("Instance", "controlplane.provisioning.instance.reconcile")
        watch.register("Node", "controlplane.provisioning.nodes.passes.reconcile", lease_s=180)
        watch.register("Rollout", "controlplane.provisioning.rollout.reconcile")
        watch.watch("Certificate", lambda key: [("Instance", key)])
