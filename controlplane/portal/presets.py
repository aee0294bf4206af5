"""Kinds of rooms for those who do not want to think in seven settings, and what affiliations mean."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _


@dataclass(frozen=True, slots=True)
class Preset:
    """``settings``: of ``drivers``' room settings, all but title, description and language."""

    name: str | Promise
    icon: str
    means: str | Promise
    settings: dict[str, object]


def _settings(access: str, anonymity: str, *, moderated: bool, listed: bool) -> dict[str, object]:
    return {
        "access": access,
        "anonymity": anonymity,
        "moderated": moderated,
        "listed": listed,
        "persistent": True,
        "archived": True,
    }


PRESETS: dict[str, Preset] = {
    "team": Preset(
        _("Team"),
        "users",
        _("Only those on its list come in; they see who is who, and who was away finds everything that was written."),
        _settings("members", "none", moderated=False, listed=True),
    ),
    "announcement": Preset(
        _("Announcements"),
        "megaphone",
        _("Everybody may read along; only those to whom you give a voice write."),
        _settings("open", "semi", moderated=True, listed=True),
    ),
    "lobby": Preset(
        _("Public lobby"),
        "door-open",
        _("Open to everybody, listed, people from other servers too. Addresses are seen by moderators only."),
        _settings("open", "semi", moderated=False, listed=True),
    ),
    "private": Preset(
        _("Private group"),
        "lock-keyhole",
        _("Not listed, only for those on its list; they see each other's addresses, which encryption needs."),
        _settings("members", "none", moderated=False, listed=False),
    ),
}


@dataclass(frozen=True, slots=True)
class Affiliation:
    name: str | Promise
    means: str | Promise


AFFILIATIONS: dict[str, Affiliation] = {
    "owner": Affiliation(_("Owner"), _("decides everything, also who else does")),
    "admin": Affiliation(_("Administrator"), _("moderates, invites and bans")),
    "member": Affiliation(_("Member"), _("comes in, and writes in moderated rooms")),
    "none": Affiliation(_("None"), _("as any visitor")),
    "outcast": Affiliation(_("Banned"), _("does not get in")),
}
