"""One permission for all views: each names, per method, the scopes of which one is needed."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from controlplane.api.authentication import principal_of


def scopes_for(view: Any, method: str) -> tuple[str, ...]:
    """The scopes of which one suffices; none are named: nobody may."""
    wanted = getattr(view, "scopes", {}).get("GET" if method in {"HEAD", "OPTIONS"} else method, ())
    return (wanted,) if isinstance(wanted, str) else tuple(wanted)


class HasScope(BasePermission):
    """The principal has one of the view's scopes somewhere; where exactly is checked with the object.

    A view with ``operator_only`` is the operator's whatever the scopes of an organisation say.
    """

    message = "This needs a scope that the token or the person does not have."

    def has_permission(self, request: Request, view: Any) -> bool:
        principal = principal_of(request)
        if principal is None:
            return False
        if getattr(view, "operator_only", False) and not principal.is_operator:
            return False
        if request.method == "OPTIONS":
            return True
        return any(principal.may(scope) for scope in scopes_for(view, str(request.method)))
