"""``/metrics`` and what is below it."""

from __future__ import annotations

from django.urls import path

from controlplane.metrics import views

urlpatterns = [
    path("metrics", views.metrics, name="metrics"),
    path("metrics/targets", views.targets, name="metrics-targets"),
    path("metrics/instances/<slug:label>", views.engine_metrics, name="metrics-engine"),
]
