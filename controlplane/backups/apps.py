from django.apps import AppConfig


def _concerned(key: str) -> list[tuple[str, str]]:
    from controlplane.backups.restoring import concerned_by

    return concerned_by(key)


class BackupsConfig(AppConfig):
    name = "controlplane.backups"
    label = "backups"
    verbose_name = "Backups"

    def ready(self) -> None:
        from controlplane.reconcile import watch

        # The clock must go on when backups are stuck, so it is not on their queue.
        watch.declare("Backups", "reconcile")
        watch.register("Backups", "controlplane.backups.clock.reconcile")
        watch.watch("Instance", lambda key: [("Backups", key)])
        watch.declare("Backup", "backup")
        watch.register("Backup", "controlplane.backups.saving.reconcile", lease_s=180)
        watch.declare("Repository", "backup")
        watch.register("Repository", "controlplane.backups.keeping.reconcile", lease_s=180)
        watch.declare("Import", "backup")
        watch.register("Import", "controlplane.backups.imports_pass.reconcile", lease_s=120)
        watch.declare("Restore", "backup")
        watch.register("Restore", "controlplane.backups.restores.reconcile", lease_s=180)
        watch.declare("Drill", "backup")
        watch.register("Drill", "controlplane.backups.drilling.reconcile", lease_s=180)
        # A safety backup that is over is waited for, and a newer full one makes what was kept aside needless.
        watch.watch("Backup", _concerned)
