"""What all settings share. Everything that differs between machines comes from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from controlplane import logs
from controlplane.settings import environment as env

BASE_DIR = Path(__file__).resolve().parent.parent.parent

SECRET_KEY = env.text("ROOST_SECRET_KEY")
SECRET_KEY_FALLBACKS = env.words("ROOST_SECRET_KEY_FALLBACKS")
DEBUG = env.flag("ROOST_DEBUG", False)
ALLOWED_HOSTS = env.words("ROOST_ALLOWED_HOSTS", "localhost,127.0.0.1")
BASE_URL = env.text("ROOST_BASE_URL", "http://localhost:8000").rstrip("/")
CSRF_TRUSTED_ORIGINS = [BASE_URL]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.humanize",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "allauth.usersessions",
    "controlplane.reconcile",
    "tenants",
    "controlplane.fleet",
    "controlplane.zones",
    "controlplane.certificates",
    "controlplane.turn",
    "controlplane.provisioning",
    "controlplane.monitoring",
    "controlplane.backups",
    "controlplane.metrics",
    "controlplane.doctor",
    "controlplane.api",
    "controlplane.portal",
]

MIDDLEWARE = [
    "controlplane.metrics.requests.RequestsTimed",
    "controlplane.api.frontier.ClientAddress",
    "controlplane.api.frontier.ContentPolicy",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "controlplane.api.paths.OptionalSlash",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "controlplane.portal.language.PortalLanguage",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
]

ROOT_URLCONF = "controlplane.urls"
WSGI_APPLICATION = "controlplane.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {"default": env.database("ROOST_DATABASE_URL")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("de", "Deutsch")]
LOCALE_PATHS = [BASE_DIR / "locale"]
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True
STATIC_URL = "static/"
STATIC_ROOT = env.text("ROOST_STATIC_ROOT", str(BASE_DIR / "staticfiles"))
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "controlplane.api.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["controlplane.api.permissions.HasScope"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.LimitOffsetPagination",
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "PAGE_SIZE": 100,
    "EXCEPTION_HANDLER": "controlplane.api.problems.exception_handler",
    "DEFAULT_RENDERER_CLASSES": [
        "rest_framework.renderers.JSONRenderer",
        "rest_framework.renderers.BrowsableAPIRenderer",
    ],
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Roost",
    "DESCRIPTION": "Managed XMPP hosting: organisations, instances, accounts, rooms, DNS, certificates, TURN.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "SCHEMA_PATH_PREFIX": "/api/v1/",
    "ENUM_NAME_OVERRIDES": {
        "KindEnum": "tenants.validators.CONTACT_KINDS",
        "IncidentKindEnum": "controlplane.monitoring.models.Incident.KINDS",
        "SubscriptionKindEnum": ["webhook", "email"],
        "LinkStateEnum": "controlplane.monitoring.models.S2sLink.STATES",
        "DomainModeEnum": ["provider", "own"],
        "RestoreModeEnum": ["in_place", "new_instance", "part"],
    },
}

_FORMAT = env.choice("ROOST_LOG_FORMAT", (logs.LINES, logs.JSON))
LOGGING = logs.configuration(_FORMAT, env.text("ROOST_LOG_LEVEL", "INFO"))

# Celery: wake-ups only. Time and retries live in the reconciler's table.
CELERY_BROKER_URL = env.text("ROOST_BROKER_URL")

# Mail: notices of incidents to those who subscribed; invitations and what concerns signing in.
_MAIL = env.mail("ROOST_MAIL_URL")
EMAIL_HOST, EMAIL_PORT = _MAIL.get("HOST", ""), _MAIL.get("PORT", 25)
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _MAIL.get("USER", ""), _MAIL.get("PASSWORD", "")
EMAIL_USE_TLS, EMAIL_USE_SSL = _MAIL.get("TLS", False), _MAIL.get("SSL", False)
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.text("ROOST_MAIL_FROM", "roost@localhost")

# Signing in: people of the portal. Accounts come by invitation only; second factors and sessions are theirs to manage.
LOGIN_URL, LOGIN_REDIRECT_URL = "account_login", "portal:home"
ACCOUNT_ADAPTER = "controlplane.portal.adapters.Accounts"
ACCOUNT_FORMS = {"login": "controlplane.portal.login.Login"}
ACCOUNT_LOGIN_METHODS = {"email", "username"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "optional"
ACCOUNT_CHANGE_EMAIL = True  # a new address takes the old one's place once it is verified
ACCOUNT_EMAIL_NOTIFICATIONS = True
ACCOUNT_REAUTHENTICATION_REQUIRED = True
ACCOUNT_LOGOUT_ON_PASSWORD_CHANGE = True
ACCOUNT_LOGOUT_REDIRECT_URL = "account_login"
ACCOUNT_USER_MODEL_EMAIL_FIELD = "email"
MFA_ADAPTER = "controlplane.portal.adapters.SecondFactors"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_TOTP_ISSUER = "Roost"
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = BASE_URL.startswith("http://")
SOCIALACCOUNT_ADAPTER = "controlplane.portal.adapters.Providers"
SOCIALACCOUNT_EMAIL_AUTHENTICATION = SOCIALACCOUNT_EMAIL_AUTHENTICATION_AUTO_CONNECT = True
SOCIALACCOUNT_PROVIDERS = {"openid_connect": {"APPS": env.providers("ROOST_OIDC")}}

# Roost's own.
ROOST: dict[str, Any] = {
    "MASTER_KEYS": env.key_lines("ROOST_MASTER_KEY_FILE"),
    "PROVIDER_ZONE": env.text("ROOST_PROVIDER_ZONE"),
    "STATUS_URL": env.text("ROOST_STATUS_URL", BASE_URL).rstrip("/"),
    "MAIL": bool(_MAIL),
    "OIDC_ORIGINS": env.words("ROOST_OIDC_ORIGINS"),
    "RECORD_TTL_S": env.integer("ROOST_RECORD_TTL_S", 60),
    "DNS_DRIVER": env.text("ROOST_DNS_DRIVER", "powerdns"),
    "POWERDNS_URL": env.text("ROOST_POWERDNS_URL", ""),
    "POWERDNS_API_KEY": env.text("ROOST_POWERDNS_API_KEY", ""),
    "RFC2136_SERVER": env.text("ROOST_RFC2136_SERVER", ""),
    "RFC2136_TSIG_NAME": env.text("ROOST_RFC2136_TSIG_NAME", ""),
    "RFC2136_TSIG_SECRET": env.text("ROOST_RFC2136_TSIG_SECRET", ""),
    "RFC2136_TSIG_ALGORITHM": env.text("ROOST_RFC2136_TSIG_ALGORITHM", "hmac-sha256"),
    "LEXICON_PROVIDER": env.text("ROOST_LEXICON_PROVIDER", ""),
    "LEXICON_AUTH": env.mapping("ROOST_LEXICON_AUTH"),
    "DNS_NAMESERVERS": env.words("ROOST_DNS_NAMESERVERS"),
    "DNS_AUTHORITATIVE": env.words("ROOST_DNS_AUTHORITATIVE"),
    "RESOLVER": env.text("ROOST_RESOLVER", ""),
    "ACME_DIRECTORY": env.text("ROOST_ACME_DIRECTORY"),
    "ACME_CA_FILE": env.text("ROOST_ACME_CA_FILE", ""),
    "ACME_ROOTS_URL": env.text("ROOST_ACME_ROOTS_URL", ""),
    "ACME_CONTACT": env.text("ROOST_ACME_CONTACT", ""),
    "ACME_CHALLENGE": env.text("ROOST_ACME_CHALLENGE", "dns-01"),
    "ACME_EAB_KID": env.text("ROOST_ACME_EAB_KID", ""),
    "ACME_EAB_HMAC": env.text("ROOST_ACME_EAB_HMAC", ""),
    "CAA_ISSUER": env.text("ROOST_CAA_ISSUER", ""),
    "TURN_HOST": env.text("ROOST_TURN_HOST", ""),
    "TURN_PORT": env.integer("ROOST_TURN_PORT", 3478),
    "TURN_TLS_PORT": env.integer("ROOST_TURN_TLS_PORT", 0),
    "TURN_DATABASE": env.text("ROOST_TURN_DATABASE", ""),
    "TURN_REALM": env.text("ROOST_TURN_REALM", ""),
    "EDGE_ADDRESSES": env.words("ROOST_EDGE_ADDRESSES"),
    "EDGE_SOURCES": env.words("ROOST_EDGE_SOURCES", "127.0.0.1,::1"),
    "PROXY65_PORTS": env.port_range("ROOST_PROXY65_PORTS", "20000-21999"),
    "ANSIBLE_DIR": env.text("ROOST_ANSIBLE_DIR", "/var/lib/roost/ansible"),
    "SSH_DIR": env.text("ROOST_SSH_DIR", "/run/roost/ssh"),
    "TRUST_EXTRA_FILE": env.text("ROOST_TRUST_EXTRA_FILE", ""),
    "TRUST_SYSTEM": env.flag("ROOST_TRUST_SYSTEM", True),
    "S2S_REFERENCE_PEER": env.text("ROOST_S2S_REFERENCE_PEER", ""),
    "BACKOFF_CAP_S": env.number("ROOST_BACKOFF_CAP_S", 300),
    "HEALTH_S": env.number("ROOST_HEALTH_S", 60),
    "SWEEP_S": env.number("ROOST_SWEEP_S", 5),
    "RESYNC_S": env.number("ROOST_RESYNC_S", 3600),
    "STUN_SERVERS": env.words("ROOST_STUN_SERVERS"),
    "ECHO_URLS": env.words("ROOST_ECHO_URLS"),
    "PUBLIC_NETWORKS": env.words("ROOST_PUBLIC_NETWORKS"),
    "ADDRESS_S": env.number("ROOST_ADDRESS_S", 30),
    "PROXY_HOPS": env.integer("ROOST_PROXY_HOPS", 0),
    "WAKE": env.text("ROOST_WAKE", "controlplane.tasks.wake"),
    "PROBE_CHEAP_S": env.number("ROOST_PROBE_CHEAP_S", 30),
    "PROBE_FULL_S": env.number("ROOST_PROBE_FULL_S", 600),
    "PROBE_RETRY_S": env.number("ROOST_PROBE_RETRY_S", 5),
    "PROBE_DOWN_AFTER": env.integer("ROOST_PROBE_DOWN_AFTER", 3),
    "PROBE_UP_AFTER": env.integer("ROOST_PROBE_UP_AFTER", 2),
    "PROBE_AT_ONCE": env.integer("ROOST_PROBE_AT_ONCE", 100),
    "PROBE_WALKS_AT_ONCE": env.integer("ROOST_PROBE_WALKS_AT_ONCE", 4),
    "PROBE_REFERENCES": env.words("ROOST_PROBE_REFERENCES"),
    "PROBE_CLOCK_S": env.number("ROOST_PROBE_CLOCK_S", 60),
    "PROBE_END_DAYS": env.number("ROOST_PROBE_END_DAYS", 5),
    "SAMPLE_DAYS": env.integer("ROOST_SAMPLE_DAYS", 14),
    "SAMPLE_HOURS_DAYS": env.integer("ROOST_SAMPLE_HOURS_DAYS", 400),
    "ROLL_S": env.number("ROOST_ROLL_S", 60),
    "HEALTH_LISTEN": env.text("ROOST_HEALTH_LISTEN", ""),
    "METRICS_TOKEN": env.text("ROOST_METRICS_TOKEN", ""),
    "METRICS_DIR": env.text("ROOST_METRICS_DIR", ""),
    "METRICS_TENANTS": env.choice("ROOST_METRICS_TENANTS", ("key", "hash", "none")),
    "SPOOL_DIR": env.text("ROOST_SPOOL_DIR", "/var/lib/roost/spool"),
    "IMPORT_MAX_BYTES": env.integer("ROOST_IMPORT_MAX_BYTES", 4 << 30),
    "RESTIC_CACHE_DIR": env.text("ROOST_RESTIC_CACHE_DIR", ""),
    "WORKER_USER": env.text("ROOST_WORKER_USER", ""),
    "FAULT_DIR": env.text("ROOST_FAULT_DIR", ""),
}
