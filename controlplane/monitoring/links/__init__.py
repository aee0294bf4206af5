"""Federation links: found by what engines say, proven by pings, healed one by one on a queue of their own.

Others call ``suspect``, ``address_changed``, ``unproven`` and ``collect``; the passes are ``reconcile`` (one link) and
``collect_node`` (what the engines of one node say).
"""

from controlplane.monitoring.links.asked import address_changed, retry, suspect, unproven
from controlplane.monitoring.links.healing import reconcile
from controlplane.monitoring.links.sighted import collect, collect_node

__all__ = ["address_changed", "collect", "collect_node", "reconcile", "retry", "suspect", "unproven"]
