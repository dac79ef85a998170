from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("inference", "0009_draft_model")]

    operations = [
        migrations.AddField(
            model_name="replica",
            name="chats",
            field=models.BooleanField(null=True),
        ),
    ]
