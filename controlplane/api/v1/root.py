"""The entry of the API: who is asking, and where everything is."""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.v1 import shapes, shown
from controlplane.api.v1.base import View
from controlplane.api.v1.schema import told
from tenants.principal import ALL_SCOPES


class Root(View):
    """Any scope will do."""

    scopes = {"GET": tuple(sorted(ALL_SCOPES))}

    @told("GET", shapes.Root, tag="entry", name="get_root", summary="Who asks, and where everything is")
    def get(self, request: Request) -> Response:
        principal = self.principal
        links = ["organisations", "instances", "domains", "plans", "events", "audit"]
        links += ["incidents", "maintenances", "subscriptions"]
        mine = (*links, "nodes", "rollouts", "tokens") if principal.is_operator else links
        return Response(
            {
                "principal": principal.name,
                "operator": principal.is_operator,
                "scopes": sorted(principal.scopes),
                "organisations": {slug: sorted(scopes) for slug, scopes in sorted(principal.organisations.items())},
                "links": {name: shown.url(name) for name in (*mine, "schema", "docs")},
            }
        )
