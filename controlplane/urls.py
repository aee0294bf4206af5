"""All addresses of the web process."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from controlplane.api import pages, statuspages
from controlplane.api.echo import echo

urlpatterns = [
    path("", pages.index, name="index"),
    path("healthz", pages.healthz, name="healthz"),
    path("address", echo, name="address"),
    path("readyz", pages.readyz, name="readyz"),
    path("", include("controlplane.metrics.urls")),
    path(".well-known/acme-challenge/<str:token>", pages.acme_challenge, name="acme-challenge"),
    path("status/", include(statuspages.urlpatterns)),
    path("api/v1/", include("controlplane.api.v1.urls")),
    path("portal/", include("controlplane.portal.urls")),
    path("accounts/", include("allauth.urls")),
    path("admin/", admin.site.urls),
]

handler404 = pages.not_found
handler500 = pages.failed
