from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("backups", "0001_initial"),
    ]

    operations = [
        migrations.AddField(
            model_name="repository",
            name="expire_days",
            field=models.PositiveIntegerField(
                default=30, help_text="as its policy said last: kept so long at the end"
            ),
        ),
    ]
