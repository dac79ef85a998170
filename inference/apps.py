from django.apps import AppConfig


class InferenceConfig(AppConfig):
    name = "inference"

    def ready(self) -> None:
        from inference import subscribers  # noqa: PLC0415  models are there only now

        subscribers.listen()
