"""Whether the organisation that claims a domain controls it. It only looks; ``tenants`` keeps the result.

Two ways count: a TXT record with the claim's own token, or the ``_acme-challenge`` of the domain delegated to the
claim's own instance. Both name the claim. Name servers that are ours would not do: they show that the owner
uses this provider, and not which organisation the owner is.
"""

from __future__ import annotations

from typing import NamedTuple

from controlplane import wiring
from controlplane.probes import recordsets
from controlplane.values.names import DomainName
from controlplane.values.records import txt
from controlplane.zones import plan, services
from tenants.models import Domain, Instance


class Proof(NamedTuple):
    """``method``: "provider", "txt", "delegation" or empty; ``message``: a sentence for people, with the remedy."""

    proven: bool
    method: str
    message: str


def is_proven(domain: Domain) -> Proof:
    """Look through the resolver. Raises ``Unavailable`` when it does not answer."""
    name = DomainName(domain.name)
    if domain.mode == "provider":
        inside = name.is_within(wiring.provider_zone())
        message = "is" if inside else "is not"
        return Proof(inside, "provider" if inside else "", f"{name} {message} below {wiring.provider_zone()}.")
    token_key = (plan.proof_name(name), "TXT")
    challenge_key = (f"_acme-challenge.{name}", "CNAME")
    seen = recordsets.at_resolver(wiring.resolver(), [token_key, challenge_key])
    token = txt(domain.proof_token)
    if token_key in seen and token in seen[token_key].rdatas:
        return Proof(True, "txt", f"The token is at {token_key[0]}.")
    target = _delegation_target(domain)
    if target and challenge_key in seen and seen[challenge_key].rdatas == {f"{target}."}:
        return Proof(True, "delegation", f"{challenge_key[0]} leads to {target}.")
    found = f", where now {', '.join(sorted(seen[token_key].rdatas))} is" if token_key in seen else ""
    return Proof(False, "", f"Publish {token_key[0]}. TXT {token} to prove that {name} is yours{found}.")


def _delegation_target(domain: Domain) -> str:
    """The name of the claim's own instance that the challenge has to lead to; empty without an instance."""
    instance = Instance.objects.whole().filter(domain=domain).first()
    if instance is None:
        return ""
    need = services.need_of(instance)
    return plan.delegated_challenge(need, need.domain).ascii
