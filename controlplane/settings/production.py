"""Real machines: TLS in front, secure cookies."""

from controlplane.settings.base import *  # noqa: F403  (settings modules are star-imported by Django's convention)

SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
SECURE_HSTS_SECONDS = 31_536_000
