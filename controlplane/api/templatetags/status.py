"""Small words on the status pages: how long something took, what a level is called."""

from __future__ import annotations

import datetime

from django import template

register = template.Library()


@register.filter
def lasted(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 5 min``, ``2 d 4 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


@register.filter
def since(start: datetime.datetime, end: datetime.datetime) -> str:
    return lasted(max(0.0, (end - start).total_seconds()))


@register.filter
def of(table: dict[str, str], key: str) -> str:
    """``table[key]``."""
    return table.get(key, "")
