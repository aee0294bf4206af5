from django.apps import AppConfig


class TurnConfig(AppConfig):
    name = "controlplane.turn"
    label = "turn"
    verbose_name = "TURN"
