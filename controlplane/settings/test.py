"""The tests. Without a stack (unit tests, type checks) every variable has a harmless value."""

import os
import tempfile
from pathlib import Path

_defaults = {
    "ROOST_SECRET_KEY": "only-for-tests",
    "ROOST_DATABASE_URL": "postgresql:///roost",
    "ROOST_BROKER_URL": "memory://",
    "ROOST_PROVIDER_ZONE": "roost.example",
    "ROOST_ACME_DIRECTORY": "https://acme.roost.example/dir",
    "ROOST_EDGE_ADDRESSES": "192.0.2.1",
    "ROOST_TURN_HOST": "turn.roost.example",
    "ROOST_WAKE": "none",
}
for _name, _value in _defaults.items():
    os.environ.setdefault(_name, _value)
if "ROOST_MASTER_KEY_FILE" not in os.environ:
    _key = Path(tempfile.mkdtemp(prefix="roost-test-")) / "master.key"
    _key.write_text("3GBj_TRLLT4iRrCHzQ6r7CqS0lMUrBmPpuyvG9kHJNQ=\n")
    os.environ["ROOST_MASTER_KEY_FILE"] = str(_key)

from controlplane.settings.base import *  # noqa: E402, F403  (after the defaults, and by Django's convention)

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
