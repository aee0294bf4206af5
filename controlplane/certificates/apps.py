from django.apps import AppConfig


class CertificatesConfig(AppConfig):
    name = "controlplane.certificates"
    label = "certificates"
    verbose_name = "Certificates"

    def ready(self) -> None:
        from controlplane.reconcile import watch

        watch.declare("Certificate", "reconcile")
        watch.declare("Authority", "reconcile")
        watch.register("Certificate", "controlplane.certificates.reconciler.reconcile")
        watch.register("Authority", "controlplane.certificates.authority.reconcile")
