"""The stack that ``./roost up`` starts: plain HTTP on loopback, otherwise as in production."""

from controlplane.settings.base import *  # noqa: F403  (settings modules are star-imported by Django's convention)
