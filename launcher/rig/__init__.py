"""A rig of real hosts on one machine, made of namespaces: for the tests of a fleet, and for people by ``./roost lab``.

Standard library only, since the launcher uses it before anything is installed for Python.
"""
