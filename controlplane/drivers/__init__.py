"""Drivers speak to the outside: one file per kind of server, no Django, errors as in ``values.errors``."""
