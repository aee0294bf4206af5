"""Places for backups, which are the operator's."""

from __future__ import annotations

from django.http import Http404
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.v1 import backup_shapes as shapes
from controlplane.api.v1.base import View, created
from controlplane.api.v1.schema import told
from controlplane.api.v1.shown import url
from controlplane.backups import places as services
from controlplane.backups.models import Place

TAG = "backup places"


class Places(View):
    operator_only = True
    scopes = {"GET": "admin", "POST": "admin"}

    @told("GET", shapes.Place(many=True), tag=TAG, name="list_backup_places", summary="List places for backups")
    def get(self, request: Request) -> Response:
        return self.paged(Place.objects.order_by("name"), shapes.place)

    @told(
        "POST",
        shapes.Place,
        status=201,
        body=shapes.PlaceIn,
        tag=TAG,
        name="create_backup_place",
        summary="Set up a place; the first is the default one",
    )
    @idempotent
    def post(self, request: Request) -> Response:
        row = services.create_place(**self.given(shapes.PlaceIn), principal=self.principal)
        return created(request, shapes.place(row), url("backup-place", name=row.name))


class OnePlace(View):
    operator_only = True
    scopes = {"GET": "admin", "PATCH": "admin", "DELETE": "admin"}

    @told("GET", shapes.Place, tag=TAG, name="get_backup_place", summary="Read a place, without its secrets")
    def get(self, request: Request, name: str) -> Response:
        return Response(shapes.place(self.place(name)))

    @told(
        "PATCH",
        shapes.Place,
        body=shapes.PlaceChange,
        tag=TAG,
        name="change_backup_place",
        summary="Change limits, secrets, or which one is the default",
    )
    def patch(self, request: Request, name: str) -> Response:
        row = self.place(name)
        given = self.given(shapes.PlaceChange, partial=True)
        return Response(shapes.place(services.change_place(place=row, principal=self.principal, **given)))

    @told(
        "DELETE",
        None,
        status=204,
        tag=TAG,
        name="delete_backup_place",
        summary="Remove a place that has no repositories",
    )
    def delete(self, request: Request, name: str) -> Response:
        services.delete_place(place=self.place(name), principal=self.principal)
        return Response(status=204)

    def place(self, name: str) -> Place:
        found = Place.objects.filter(name=name).first()
        if found is None:
            raise Http404
        return found
