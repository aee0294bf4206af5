"""A plan says that somebody wants a look now; when the next cheap round is due is the prober's own business."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("monitoring", "0004_address_watch")]

    operations = [
        migrations.RemoveIndex(model_name="probeplan", name="monitoring__place_6dbe04_idx"),
        migrations.RemoveIndex(model_name="probeplan", name="monitoring__place_034941_idx"),
        migrations.RemoveField(model_name="probeplan", name="cheap_due_at"),
        migrations.AddField(
            model_name="probeplan", name="wanted_at", field=models.DateTimeField(blank=True, null=True)
        ),
        migrations.AddIndex(
            model_name="probeplan",
            index=models.Index(
                fields=["place"], condition=models.Q(("wanted_at__isnull", False)), name="probes_wanted"
            ),
        ),
    ]
