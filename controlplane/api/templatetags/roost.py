"""What the admin's front page shows above its list."""

from __future__ import annotations

from typing import Any

from django import template

from controlplane.api import overview

register = template.Library()


@register.simple_tag
def roost_numbers() -> dict[str, Any]:
    return overview.numbers()
