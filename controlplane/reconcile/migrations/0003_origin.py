from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('reconcile', '0002_condition_by_status'),
    ]

    operations = [
        migrations.AddField(
            model_name='workitem',
            name='origin',
            field=models.CharField(
                db_default='', default='', help_text='the request that it was touched by, for the logs', max_length=64
            ),
        ),
    ]
