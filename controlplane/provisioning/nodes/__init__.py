"""The pass over a node: ``passes`` puts it together from ``reach``, ``rotation``, ``facts`` and ``converge``.

What prepares a machine is ``provisioning.prepare``; what its edge serves is ``fleet.routes``.
"""
