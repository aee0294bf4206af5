"""Who acts: a person or a token, reduced to what permission checks need."""

from __future__ import annotations

from dataclasses import dataclass, field

SYSTEM_NAME = "roost"
#: What a person with this role in an organisation may do there.
ROLE_SCOPES = {
    "owner": frozenset({"read", "instances", "accounts", "passwords", "rooms", "backups", "people"}),
    "admin": frozenset({"read", "instances", "accounts", "passwords", "rooms", "backups"}),
    "helper": frozenset({"passwords"}),
    "reader": frozenset({"read"}),
}
ALL_SCOPES = frozenset(
    {"read", "instances", "accounts", "passwords", "rooms", "backups", "people", "logins", "organisations", "admin"}
)


@dataclass(frozen=True, slots=True)
class Principal:
    """``name`` goes into the audit; ``organisations`` maps slug -> scopes there; an operator has all everywhere."""

    name: str
    is_operator: bool = False
    scopes: frozenset[str] = frozenset()
    organisations: dict[str, frozenset[str]] = field(default_factory=dict)
    address: str | None = None

    def may(self, scope: str, organisation: str | None = None) -> bool:
        """True if ``scope`` is granted, in this organisation if one is named."""
        if self.is_operator:
            return scope in self.scopes
        if organisation is None:
            return any(scope in scopes for scopes in self.organisations.values())
        return scope in self.organisations.get(organisation, frozenset())


#: Roost itself: the reconcilers and the launcher's commands.
SYSTEM = Principal(name=SYSTEM_NAME, is_operator=True, scopes=ALL_SCOPES)
