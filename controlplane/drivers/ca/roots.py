"""Root certificates: those that a test CA makes anew at every start, and those of the system."""

from __future__ import annotations

import functools
import ssl
from pathlib import Path

import requests

from controlplane.drivers.ca.errors import problem
from controlplane.drivers.ca.network import unreachable
from controlplane.values.certificates import parse_chain
from controlplane.values.errors import InvalidInput, Rejected, Unavailable

_DEBIAN_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def fetch_roots(url: str, *, ca_file: str = "", timeout_s: float = 10.0) -> str:
    """The roots that a CA publishes at this URL, PEM. Raises ``Unavailable`` and ``Rejected``."""
    try:
        response = requests.get(url, verify=ca_file or True, timeout=timeout_s)
    except requests.exceptions.RequestException as error:
        raise unreachable(url, error) from error
    except OSError as error:
        raise Rejected(f"ROOST_ACME_CA_FILE: {error}", remedy="Give the path of a PEM file.") from error
    if not response.ok:
        raise problem(response)
    try:
        return parse_chain(response.text, field="roots").pem
    except InvalidInput as error:
        raise Unavailable(f"{url} gives no root certificates: {error.message}") from error


@functools.lru_cache(maxsize=1)
def system_bundle() -> str:
    """The system's trusted roots, PEM; empty if none are installed. Read once per process."""
    for candidate in (ssl.get_default_verify_paths().cafile, _DEBIAN_BUNDLE):
        if candidate and Path(candidate).is_file():
            return Path(candidate).read_text()
    return ""
