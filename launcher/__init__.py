"""The launcher behind ``./roost``: it brings the local stack up and down with nothing but the standard library.

What the stack does once it runs is the control plane's business; the launcher talks to it by ``manage.py`` and REST.
"""
