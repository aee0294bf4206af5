"""How long an instance keeps archives and uploads, where that is less than its plan says."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("tenants", "0005_people"),
    ]

    operations = [
        migrations.AddField(
            model_name="instance",
            name="archive_days",
            field=models.PositiveIntegerField(
                default=0, help_text="messages are kept so long, if that is less than the plan's; 0: as the plan says"
            ),
        ),
        migrations.AddField(
            model_name="instance",
            name="upload_days",
            field=models.PositiveIntegerField(
                default=0, help_text="files are kept so long, if that is less than the plan's; 0: as the plan says"
            ),
        ),
    ]
