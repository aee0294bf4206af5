from django.apps import AppConfig


class DoctorConfig(AppConfig):
    name = "controlplane.doctor"
    label = "doctor"
