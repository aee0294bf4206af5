"""The only way to change what tenants want: rules, one transaction, one audit event, and a touch of the queue.

Callers have checked permissions (``Principal.may``); reconcilers do what follows from the change.
"""

from tenants.services.domains import claim_domain, mark_domain_proven, release_domain
from tenants.services.instances import (
    change_instance,
    change_plan,
    create_instance,
    reverify_instance,
    rotate,
)
from tenants.services.lifecycle import (
    DEFAULT_GRACE_S,
    MAX_GRACE_S,
    finish_deletion,
    restore_instance,
    suspend_instance,
    terminate_instance,
    unsuspend_instance,
)
from tenants.services.organisations import change_organisation, create_organisation, delete_organisation
from tenants.services.people import (
    accept_invitation,
    change_role,
    create_login_link,
    find_invitation,
    invite,
    remove_person,
    renew_invitation,
    use_login_link,
    withdraw_invitation,
)
from tenants.services.plans import create_plan, delete_plan, update_plan
from tenants.services.tokens import create_token, revoke_token

__all__ = [
    "DEFAULT_GRACE_S",
    "MAX_GRACE_S",
    "accept_invitation",
    "change_instance",
    "change_organisation",
    "change_plan",
    "change_role",
    "claim_domain",
    "create_instance",
    "create_login_link",
    "create_organisation",
    "create_plan",
    "create_token",
    "delete_organisation",
    "delete_plan",
    "find_invitation",
    "finish_deletion",
    "invite",
    "mark_domain_proven",
    "release_domain",
    "remove_person",
    "renew_invitation",
    "restore_instance",
    "reverify_instance",
    "revoke_token",
    "rotate",
    "suspend_instance",
    "terminate_instance",
    "unsuspend_instance",
    "update_plan",
    "use_login_link",
    "withdraw_invitation",
]
