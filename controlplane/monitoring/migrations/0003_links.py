"""Links keep every stream, when they were used, what was dialled in vain, and the incident that waits for them."""

import django.db.models.deletion
from django.db import migrations, models


#: Nodes that are there already; later ones make their own by the watch on Node.
ASK_EVERY_NODE = """
INSERT INTO reconcile_workitem (kind, object_id, queue, due_at, holder, fence, nudged, attempts)
SELECT 'Federation', name, 'probe', clock_timestamp() + make_interval(secs => random() * 60), '', 0, false, 0
FROM fleet_node WHERE standing <> 'retired' ORDER BY name
ON CONFLICT (kind, object_id) DO NOTHING
"""


class Migration(migrations.Migration):
    dependencies = [
        ("monitoring", "0002_deliveries"),
        ("fleet", "0002_fleet"),
        ("reconcile", "0002_condition_by_status"),
    ]

    operations = [
        migrations.AddField(
            model_name="s2slink",
            name="streams",
            field=models.JSONField(
                blank=True, default=list, help_text="every stream, as the engine said last; also those of components"
            ),
        ),
        migrations.AddField(
            model_name="s2slink",
            name="used_at",
            field=models.DateTimeField(
                blank=True, help_text="last traffic that was no ping of ours, as far as the engine tells", null=True
            ),
        ),
        migrations.AddField(
            model_name="s2slink",
            name="dialled",
            field=models.JSONField(
                blank=True, default=list, help_text="addresses that did not help: others are tried at once"
            ),
        ),
        migrations.AddField(
            model_name="s2slink",
            name="waiting_for",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="links_to_prove",
                to="monitoring.incident",
            ),
        ),
        migrations.RunSQL(ASK_EVERY_NODE, migrations.RunSQL.noop),
    ]
