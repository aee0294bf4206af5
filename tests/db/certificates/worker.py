"""A worker of its own process for the fault tests: works the queue ``certs`` until nothing is due soon."""

import django

django.setup()

from controlplane.reconcile import loop, watch  # noqa: E402  (Django has to be set up first)

for kind in ("Certificate", "Authority"):
    watch.declare(kind, "certs")
loop.drain(["certs"], linger_s=1.5, limit_s=20)
