from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("inference", "0005_insights")]

    operations = [
        migrations.AddField(
            model_name="replica",
            name="chats",
            field=models.BooleanField(null=True),
        ),
    ]
