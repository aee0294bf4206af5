"""What the portal's templates need: icons, form fields, navigation, pages of lists, names in U-labels."""

from __future__ import annotations

import datetime
from typing import Any

from django import template
from django.conf import settings
from django.forms import BoundField, CheckboxInput
from django.http import HttpRequest
from django.templatetags.static import static
from django.utils import formats, timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import get_language, ngettext, npgettext
from django.utils.translation import gettext as _

from controlplane.portal import navigation
from controlplane.values.names import DomainName

register = template.Library()
THEMES = ("light", "dark")


@register.simple_tag
def icon(name: str, kind: str = "") -> SafeString:
    """An icon of the sprite; it says nothing by itself, so words stand beside it."""
    where = f"{static('portal/icons.svg')}#{name}"
    return format_html('<svg class="icon {}" aria-hidden="true"><use href="{}"></use></svg>', kind, where)


@register.simple_tag(takes_context=True)
def theme(context: dict[str, Any]) -> str:
    """What the person chose; empty: as the system does."""
    request: HttpRequest | None = context.get("request")
    chosen = request.COOKIES.get("theme", "") if request is not None else ""
    return chosen if chosen in THEMES else ""


@register.simple_tag
def mail_is_set() -> bool:
    """Whether mail goes out at all."""
    return bool(settings.ROOST["MAIL"])


@register.inclusion_tag("portal/parts/navigation.html", takes_context=True)
def side(context: dict[str, Any]) -> dict[str, Any]:
    """The side bar of this page."""
    return {"request": context["request"], **navigation.of(context)}


@register.inclusion_tag("portal/parts/field.html")
def field(bound: BoundField, **more: Any) -> dict[str, Any]:
    """A form's field with its label, help and errors, tied together for screen readers."""
    is_check = isinstance(bound.field.widget, CheckboxInput)
    return {"field": bound, "is_check": is_check, **more}


@register.inclusion_tag("portal/parts/pages.html", takes_context=True)
def pages(context: dict[str, Any], page: Any) -> dict[str, Any]:
    """Links to the pages before and behind, with the search kept."""
    query = context["request"].GET.copy()
    query.pop("page", None)
    return {"page": page, "query": query.urlencode()}


@register.inclusion_tag("portal/parts/copy.html")
def copy(text: object, shown: str = "") -> dict[str, Any]:
    """A text with a button that copies it."""
    return {"text": str(text), "shown": shown or str(text)}


@register.filter
def unicode(name: object) -> str:
    """A domain name as people write it."""
    return DomainName(str(name)).unicode


@register.filter
def initials(name: object) -> str:
    words = [word for word in str(name).replace("@", " ").replace(".", " ").split() if word]
    return "".join(word[0] for word in words[:2])


@register.filter
def lasts(end: datetime.datetime | None, start: datetime.datetime) -> str:
    """How long from ``start`` to ``end`` (or to now), in the largest unit that says enough."""
    return duration((end or timezone.now()) - start)


def duration(span: datetime.timedelta, *, dative: bool = False) -> str:
    """``dative``: after «in» or «ago», where some languages have another word for days."""
    seconds = max(0, int(span.total_seconds()))
    if seconds < 60:
        return ngettext("%d second", "%d seconds", seconds) % seconds
    minutes = seconds // 60
    if minutes < 60:
        return ngettext("%d minute", "%d minutes", minutes) % minutes
    hours, rest = divmod(minutes, 60)
    if hours < 24:
        text = ngettext("%d hour", "%d hours", hours) % hours
        return f"{text} {rest} min" if rest and hours < 6 else text
    days = hours // 24
    if dative:
        return npgettext("after a preposition", "%d day", "%d days", days) % days
    return ngettext("%d day", "%d days", days) % days


@register.filter
def ago(at: datetime.datetime | None) -> str:
    if at is None:
        return _("never")
    now = timezone.now()
    if at > now:
        return _("in %s") % duration(at - now, dative=True)
    if (now - at).total_seconds() < 10:
        return _("just now")
    return _("%s ago") % duration(now - at, dative=True)


@register.filter
def moment(at: datetime.datetime | None) -> str:
    """Day and time, UTC, as people write it; the hours from 0 to 23."""
    return "" if at is None else formats.date_format(at, f"{_day_format()}, H:i")


@register.filter
def day(at: datetime.date | None) -> str:
    return "" if at is None else formats.date_format(at, _day_format())


def _day_format() -> str:
    return "j. F Y" if get_language() == "de" else "j F Y"


@register.filter
def days_until(at: datetime.datetime | None) -> int | None:
    return None if at is None else (at - timezone.now()).days
