from django.apps import AppConfig


class MetricsConfig(AppConfig):
    name = "controlplane.metrics"
    label = "metrics"
    verbose_name = "Metrics"

    def ready(self) -> None:
        import sys

        from django.conf import settings

        from controlplane import observing
        from controlplane.metrics import health, instruments, shared

        role = shared.role(sys.argv)
        if settings.ROOST["METRICS_DIR"]:
            observing.listen(instruments.take)
            shared.take_seat_if_lasting(role)
        health.listen_if_wanted(role)
