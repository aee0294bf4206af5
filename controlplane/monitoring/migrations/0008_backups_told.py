from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("monitoring", "0007_links_end_with_peers"),
    ]

    operations = [
        migrations.AlterField(
            model_name="incident",
            name="kind",
            field=models.CharField(
                choices=[
                    ("check", "a check fails"),
                    ("address", "an address changed"),
                    ("link", "a federation link is broken"),
                    ("node", "a node is not reached"),
                    ("data", "members or rooms differ"),
                    ("backup", "backups are not as they should be"),
                    ("prober", "a prober is cut off"),
                ],
                max_length=10,
            ),
        ),
    ]
