import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("fleet", "0002_fleet"), ("monitoring", "0003_links")]

    operations = [
        migrations.CreateModel(
            name="AddressWatch",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "follows",
                    models.BooleanField(default=True, help_text="a change that the sources agree upon is carried out"),
                ),
                ("pinned", models.JSONField(blank=True, default=dict)),
                ("agreed", models.JSONField(blank=True, default=dict)),
                ("candidate", models.JSONField(blank=True, default=dict)),
                ("candidate_at", models.DateTimeField(blank=True, null=True)),
                ("looked_at", models.DateTimeField(blank=True, null=True)),
                ("message", models.TextField(blank=True)),
                (
                    "node",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE, related_name="address_watch", to="fleet.node"
                    ),
                ),
            ],
        ),
        migrations.AddField(
            model_name="addresssighting",
            name="held",
            field=models.BooleanField(default=False, help_text="it named some once"),
        ),
    ]
