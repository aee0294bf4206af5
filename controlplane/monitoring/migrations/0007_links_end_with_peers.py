"""A link with a server of ours ends when that server does. Only Django's part of it changes, no table."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("monitoring", "0006_roll"), ("tenants", "0003_node_labels")]

    operations = [
        migrations.AlterField(
            model_name="s2slink",
            name="peer",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="+",
                to="tenants.instance",
            ),
        ),
    ]
