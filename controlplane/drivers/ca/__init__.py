"""Certification authorities. There is one protocol, ACME (RFC 8555), so ``acme.py`` has no Protocol class."""
