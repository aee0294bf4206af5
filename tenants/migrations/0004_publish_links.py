"""Whether an instance tells everybody which servers it talks with."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("tenants", "0003_node_labels"),
    ]

    operations = [
        migrations.AddField(
            model_name="instance",
            name="publish_links",
            field=models.BooleanField(
                default=False,
                help_text="tell everybody which servers it talks with (XEP-0485); others' names by their wish",
            ),
        ),
    ]
