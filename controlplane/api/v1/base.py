"""What views share: the principal, and how organisations and instances are found.

What the principal cannot see is not there (404); what it sees but may not do is refused (403).
"""

from __future__ import annotations

from typing import Any

from django.http import Http404
from rest_framework.exceptions import NotAuthenticated, PermissionDenied
from rest_framework.pagination import LimitOffsetPagination
from rest_framework.parsers import FormParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.views import APIView

from controlplane.api.authentication import principal_of
from controlplane.api.parsers import JsonParser
from controlplane.api.permissions import HasScope, scopes_for
from controlplane.values.errors import InvalidInput
from tenants.models import Instance, Organisation
from tenants.principal import Principal


class Pages(LimitOffsetPagination):
    """``?limit=&offset=``, at most 500 at once."""

    default_limit = 100
    max_limit = 500


class View(APIView):
    """Base of all views. ``scopes``: method -> scope, or several of which one suffices."""

    scopes: dict[str, str | tuple[str, ...]] = {}
    operator_only = False
    pagination_class = Pages
    parser_classes = (JsonParser, FormParser, MultiPartParser)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """NUL can be in an address and never in a row: there is no such thing."""
        super().initial(request, *args, **kwargs)
        if any("\0" in str(value) for value in kwargs.values()):
            raise Http404
        for name, values in request.query_params.lists():
            if any("\0" in value for value in values):
                raise InvalidInput(name.replace("\0", ""), "The value has a NUL character in it.", remedy="Remove it.")

    @property
    def principal(self) -> Principal:
        principal = principal_of(self.request)
        if principal is None:
            raise NotAuthenticated
        return principal

    def organisation(self, slug: str) -> Organisation:
        """The organisation, with the scope there that this method needs."""
        found = Organisation.objects.visible_to(self.principal).filter(slug=slug).first()
        if found is None:
            raise Http404
        self.demand(found.slug)
        return found  # type: ignore[no-any-return]

    def instance(self, key: str) -> Instance:
        """The instance with its domain, plan and organisation, with the scope there that this method needs."""
        found = Instance.objects.visible_to(self.principal).whole().filter(key=key).first()
        if found is None:
            raise Http404
        self.demand(found.organisation.slug)
        return found  # type: ignore[no-any-return]

    def demand(self, slug: str) -> None:
        """Refuse if the principal has none of the method's scopes in this organisation."""
        if not any(self.principal.may(scope, slug) for scope in scopes_for(self, str(self.request.method))):
            raise PermissionDenied(HasScope.message)

    def given(self, serializer: type[Serializer[Any]], *, partial: bool = False) -> dict[str, Any]:
        """The request's body in the serializer's shape; fields that it does not know are refused, not ignored."""
        form = serializer(data=self.request.data, partial=partial)
        form.is_valid(raise_exception=True)
        return dict(form.validated_data)

    def paged(self, rows: Any, show: Any) -> Response:
        """One page of a queryset or list, each row through ``show``."""
        pages = self.pagination_class()
        page: list[Any] = pages.paginate_queryset(rows, self.request, self) or []
        return pages.get_paginated_response([show(row) for row in page])


def created(request: Request, body: Any, location: str, *, status: int = 201) -> Response:
    """An answer that says where the new resource is."""
    return Response(body, status=status, headers={"Location": request.build_absolute_uri(location)})
