"""Labels that a node has to have: of the plan, and of the instance itself."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("tenants", "0002_audit_append_only"),
    ]

    operations = [
        migrations.AddField(
            model_name="instance",
            name="node_labels",
            field=models.JSONField(
                blank=True, default=dict, help_text="labels that its node has to have, beside the plan's"
            ),
        ),
        migrations.AddField(
            model_name="plan",
            name="node_labels",
            field=models.JSONField(
                blank=True, default=dict, help_text="labels that a node has to have, such as region"
            ),
        ),
    ]
