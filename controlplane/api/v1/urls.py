"""Addresses of version 1, all below ``/api/v1/``."""

from __future__ import annotations

from django.urls import path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView
from rest_framework.permissions import AllowAny

from controlplane.api.v1 import accounts, actions, events, instances, operator, organisations, published, rooms, root

app_name = "v1"

_I = "instances/<str:key>"
_O = "organisations/<str:slug>"
urlpatterns = [
    path("", root.Root.as_view(), name="root"),
    path(
        "schema/", SpectacularAPIView.as_view(permission_classes=[AllowAny], authentication_classes=[]), name="schema"
    ),
    path(
        "docs/",
        SpectacularSwaggerView.as_view(url_name="v1:schema", permission_classes=[AllowAny], authentication_classes=[]),
        name="docs",
    ),
    path("organisations/", organisations.Organisations.as_view(), name="organisations"),
    path(f"{_O}/", organisations.OneOrganisation.as_view(), name="organisation"),
    path(f"{_O}/instances/", instances.OrganisationInstances.as_view(), name="organisation-instances"),
    path(f"{_O}/domains/", organisations.OrganisationDomains.as_view(), name="organisation-domains"),
    path(f"{_O}/domains/<str:name>/", organisations.OneDomain.as_view(), name="organisation-domain"),
    path(f"{_O}/domains/<str:name>/prove/", organisations.ProveDomain.as_view(), name="organisation-domain-prove"),
    path(f"{_O}/usage/", published.OrganisationUsage.as_view(), name="organisation-usage"),
    path("domains/", organisations.Domains.as_view(), name="domains"),
    path("instances/", instances.Instances.as_view(), name="instances"),
    path(f"{_I}/", instances.OneInstance.as_view(), name="instance"),
    path(f"{_I}/suspend/", actions.Suspend.as_view(), name="instance-suspend"),
    path(f"{_I}/unsuspend/", actions.Unsuspend.as_view(), name="instance-unsuspend"),
    path(f"{_I}/terminate/", actions.Terminate.as_view(), name="instance-terminate"),
    path(f"{_I}/restore/", actions.Restore.as_view(), name="instance-restore"),
    path(f"{_I}/rotate/", actions.Rotate.as_view(), name="instance-rotate"),
    path(f"{_I}/reverify/", actions.Reverify.as_view(), name="instance-reverify"),
    path(f"{_I}/plan/", actions.ChangePlan.as_view(), name="instance-plan"),
    path(f"{_I}/events/", events.InstanceEvents.as_view(), name="instance-events"),
    path(f"{_I}/dns/", published.Dns.as_view(), name="instance-dns"),
    path(f"{_I}/certificate/", published.Certificate.as_view(), name="instance-certificate"),
    path(f"{_I}/turn/", published.Turn.as_view(), name="instance-turn"),
    path(f"{_I}/turn/credentials/", published.TurnCredentials.as_view(), name="instance-turn-credentials"),
    path(f"{_I}/usage/", published.Usage.as_view(), name="instance-usage"),
    path(f"{_I}/verification/", published.Verification.as_view(), name="instance-verification"),
    path(f"{_I}/accounts/", accounts.Accounts.as_view(), name="instance-accounts"),
    path(f"{_I}/accounts/<str:username>/", accounts.OneAccount.as_view(), name="account"),
    path(f"{_I}/accounts/<str:username>/password/", accounts.Password.as_view(), name="account-password"),
    path(f"{_I}/rooms/", rooms.Rooms.as_view(), name="instance-rooms"),
    path(f"{_I}/rooms/<str:name>/", rooms.OneRoom.as_view(), name="room"),
    path(f"{_I}/rooms/<str:name>/affiliations/", rooms.Affiliations.as_view(), name="room-affiliations"),
    path(f"{_I}/rooms/<str:name>/affiliations/<str:jid>/", rooms.OneAffiliation.as_view(), name="room-affiliation"),
    path("nodes/", operator.Nodes.as_view(), name="nodes"),
    path("nodes/<str:name>/", operator.OneNode.as_view(), name="node"),
    path("nodes/<str:name>/cordon/", operator.Cordon.as_view(), name="node-cordon"),
    path("nodes/<str:name>/uncordon/", operator.Uncordon.as_view(), name="node-uncordon"),
    path("plans/", operator.Plans.as_view(), name="plans"),
    path("plans/<str:slug>/", operator.OnePlan.as_view(), name="plan"),
    path("tokens/", operator.Tokens.as_view(), name="tokens"),
    path("tokens/<str:prefix>/", operator.OneToken.as_view(), name="token"),
    path("events/", events.Events.as_view(), name="events"),
    path("audit/", events.Audit.as_view(), name="audit"),
]
