"""What a restart has taken away is kept beside the roll; instances that are there already get their work item."""

from django.db import migrations, models

_ENLIST = """
INSERT INTO reconcile_workitem (kind, object_id, queue, due_at, holder, fence, nudged, attempts)
SELECT 'Roll', key, 'probe', clock_timestamp() + make_interval(secs => random() * 60), '', 0, false, 0
FROM tenants_instance ON CONFLICT (kind, object_id) DO NOTHING
"""


class Migration(migrations.Migration):
    dependencies = [
        ("monitoring", "0005_probe_plan"),
        ("reconcile", "0002_condition_by_status"),
        ("tenants", "0003_node_labels"),
    ]

    operations = [
        migrations.AddField(model_name="roll", name="missing", field=models.JSONField(blank=True, default=dict)),
        migrations.AddField(model_name="roll", name="missing_since", field=models.DateTimeField(blank=True, null=True)),
        migrations.RunSQL(_ENLIST, migrations.RunSQL.noop),
    ]
