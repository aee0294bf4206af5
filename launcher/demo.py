"""Placeholder until the API is there."""
from __future__ import annotations


def provision(layout, up, progress):
    pass


def show(layout, up, progress):
    pass
