import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("fleet", "0002_fleet"), ("tenants", "0001_initial")]

    operations = [
        migrations.AddField(
            "placement",
            "adopt_id",
            models.CharField(blank=True, help_text="names the last take-over of a scratch's data", max_length=32),
        ),
        migrations.AddField(
            "placement",
            "adopt_key",
            models.CharField(blank=True, help_text="the scratch whose data is taken over", max_length=8),
        ),
        migrations.AddField(
            "placement",
            "kept",
            models.CharField(
                blank=True,
                help_text="the take-over whose former data is still kept aside",
                max_length=32,
            ),
        ),
        migrations.CreateModel(
            name="Scratch",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.CharField(editable=False, max_length=8, unique=True)),
                ("engine", models.CharField(max_length=20)),
                ("address", models.GenericIPAddressField()),
                ("base_port", models.PositiveIntegerField()),
                ("memory_mib", models.PositiveIntegerField(help_text="reserved of the node's memory")),
                ("owner_kind", models.CharField(max_length=40)),
                ("owner_id", models.CharField(max_length=80)),
                ("purpose", models.CharField(default="scratch", max_length=8)),
                ("wanted_digest", models.CharField(blank=True, max_length=64)),
                ("wanted_state", models.CharField(default="running", max_length=8)),
                ("applied_digest", models.CharField(blank=True, max_length=64)),
                ("applied_at", models.DateTimeField(blank=True, null=True)),
                (
                    "error",
                    models.TextField(blank=True, help_text="what the last convergence said, empty if it succeeded"),
                ),
                ("failures", models.PositiveIntegerField(default=0)),
                ("retry_at", models.DateTimeField(blank=True, null=True)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "instance",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="scratches", to="tenants.instance"
                    ),
                ),
                (
                    "node",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="scratches", to="fleet.node"
                    ),
                ),
            ],
            options={"ordering": ["node", "address"]},
        ),
        migrations.AddConstraint(
            "scratch",
            models.UniqueConstraint(fields=("node", "address", "base_port"), name="one_scratch_per_port"),
        ),
        migrations.AddConstraint(
            "scratch",
            models.UniqueConstraint(fields=("owner_kind", "owner_id", "purpose"), name="one_scratch_per_owner"),
        ),
    ]
