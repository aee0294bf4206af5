"""The ``acme`` library's HTTP with time-outs, our errors, and patience with nonces.

The library retries a refused nonce once. A CA under load, or Pebble that is told to refuse half of them,
needs more; and the nonce that comes with the refusal is used, which saves a request.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import requests
from acme import errors as acme_errors
from acme.client import ClientNetwork
from josepy.jwa import ES256
from josepy.jwk import JWK

from controlplane.drivers.ca.errors import NonceRefused, problem
from controlplane.values.errors import Rejected, Unavailable

#: Tries per request: with every second nonce refused, all fail once in a thousand million requests.
NONCE_TRIES = 30
CONNECT_S = 5.0


class Network(ClientNetwork):
    """``ca_file``: PEM file with the roots of the ACME server's own HTTPS; empty: the system's."""

    def __init__(self, key: JWK, *, ca_file: str, timeout_s: float) -> None:
        super().__init__(key, alg=ES256, user_agent="Roost")
        self.verify_ssl = ca_file or True  # type: ignore[assignment]  # requests takes a path, the library passes it on
        self._default_timeout = (CONNECT_S, timeout_s)  # type: ignore[assignment]  # likewise

    def _send_request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:
        try:
            response = super()._send_request(method, url, *args, **kwargs)
        except requests.exceptions.RequestException as error:
            raise unreachable(url, error) from error
        except OSError as error:  # a CA file that is not there
            raise Rejected(f"ROOST_ACME_CA_FILE: {error}", remedy="Give the path of a PEM file.") from error
        if not response.ok and self.REPLAY_NONCE_HEADER in response.headers:
            self._add_nonce(response)
        return response

    @classmethod
    def _check_response(cls, response: requests.Response, content_type: str | None = None) -> requests.Response:
        if not response.ok:
            raise problem(response)
        return super()._check_response(response, content_type=content_type)

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        """One signed request; another nonce is taken as often as needed. Raises the drivers' errors."""
        for _ in range(NONCE_TRIES):
            try:
                return self._post_once(*args, **kwargs)
            except (NonceRefused, acme_errors.BadNonce):
                continue
        raise Unavailable(f"The CA at {urlsplit(args[0]).netloc} refused {NONCE_TRIES} nonces in a row.")


def unreachable(url: str, error: requests.exceptions.RequestException) -> Unavailable | Rejected:
    """Our error for a request that got no answer."""
    host = urlsplit(url).netloc
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Rejected(
            f"The HTTPS certificate of the CA at {host} is not trusted.",
            remedy="Set ROOST_ACME_CA_FILE to the PEM file of the root that it leads to.",
        )
    why = "no answer in time" if isinstance(error, requests.exceptions.Timeout) else type(error).__name__
    return Unavailable(f"The CA at {host} cannot be reached ({why}).", remedy="Check that it runs and the way to it.")
