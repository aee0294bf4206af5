"""A server: whether it works and what is missing, and what one needs to connect."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _

from controlplane.portal import servers, wording
from controlplane.portal.access import PortalView
from controlplane.portal.forms import said
from controlplane.reconcile.models import Event
from controlplane.values.errors import RoostError
from tenants import services

#: Where clients and other servers knock (RFC 6120 §14.7, XEP-0368).
PORTS = ((5222, "c2s, STARTTLS"), (5223, "c2s, TLS"), (5269, "s2s, STARTTLS"), (5270, "s2s, TLS"), (443, "HTTPS"))


class Overview(PortalView):
    """``?part=progress`` is the part that changes while something is under way."""

    scopes = {"GET": ("read",)}

    def get(self, request: HttpRequest, key: str) -> HttpResponse:
        facts = servers.facts(self.instance)
        context = {**facts, **progress(self, facts["status"]), "ports": PORTS}
        if request.GET.get("part") == "progress":
            return self.page("parts/progress.html", context)
        events = Event.objects.filter(kind="Instance", object_id=self.instance.key).order_by("-txid", "-id")
        return self.page("instance.html", {**context, "events": events[:8]})


def progress(view: PortalView, status: dict[str, Any]) -> dict[str, Any]:
    """The conditions as a checklist. ``moving``: it is worth asking again in a moment."""
    row = view.instance
    steps = [
        {
            **condition,
            "step": wording.STEPS[condition["type"]],
            "state": wording.step_state(condition, wanted=row.should_run),
        }
        for condition in status["conditions"]
    ]
    open_steps = [step for step in steps if step["status"] != "True"]
    stalled = any(step["stalled"] for step in open_steps)
    last = steps[-1]
    if row.deletion_requested_at is not None:
        state = wording.TERMINATED
    elif row.suspended_at is not None:
        state = wording.SUSPENDED
    else:
        state = wording.WORKS if status["ready"] else wording.STALLED if stalled else wording.CHANGING
    return {
        "steps": steps[:-1],
        "last": last,
        "state": state,
        "done": sum(step["status"] == "True" for step in steps[:-1]),
        "stalled": [step for step in open_steps[:-1] if step["stalled"]],
        "moving": state is wording.CHANGING,
    }


class Reverify(PortalView):
    """«Try it out again»: a client walks through all of it once more."""

    scopes = {"POST": ("instances",)}

    def post(self, request: HttpRequest, key: str) -> HttpResponse:
        try:
            services.reverify_instance(instance=self.instance, principal=self.principal)
        except RoostError as error:
            messages.error(request, said(error))
        else:
            messages.info(request, _("A client tries everything out again; this takes less than a minute."))
        return redirect("portal:instance", key=key)
