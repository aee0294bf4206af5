"""Real machines: TLS in front, secure cookies."""

from controlplane import logs
from controlplane.settings import environment as env
from controlplane.settings.base import *  # noqa: F403  (settings modules are star-imported by Django's convention)

_FORMAT = env.choice("ROOST_LOG_FORMAT", (logs.JSON, logs.LINES))
LOGGING = logs.configuration(_FORMAT, env.text("ROOST_LOG_LEVEL", "INFO"))

SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
SECURE_HSTS_SECONDS = 31_536_000
