"""Queries used twice, above all who may see what (``visible_to``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from django.db import models

if TYPE_CHECKING:
    from tenants.principal import Principal

M = TypeVar("M", bound=models.Model)


class OrganisationQuerySet(models.QuerySet[Any]):
    def visible_to(self, principal: Principal) -> OrganisationQuerySet:
        """The operator sees all, everyone else the organisations that the principal belongs to."""
        return self if principal.is_operator else self.filter(slug__in=principal.organisations)


class DomainQuerySet(models.QuerySet[Any]):
    def visible_to(self, principal: Principal) -> DomainQuerySet:
        return self if principal.is_operator else self.filter(organisation__slug__in=principal.organisations)

    def proven(self) -> DomainQuerySet:
        return self.filter(proven_at__isnull=False)


class InstanceQuerySet(models.QuerySet[Any]):
    def visible_to(self, principal: Principal) -> InstanceQuerySet:
        return self if principal.is_operator else self.filter(organisation__slug__in=principal.organisations)

    def whole(self) -> InstanceQuerySet:
        """With the rows that a page or a pass needs anyway."""
        return self.select_related("organisation", "domain", "plan")
