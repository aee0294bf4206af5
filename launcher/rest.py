"""The control plane's REST API as the launcher uses it: JSON in, JSON out, problems as sentences."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any

from launcher.errors import Problem

TIMEOUT_S = 30.0
#: The web process may be starting again just now.
PATIENCE_S = 20.0


class Refused(Problem):
    """The API answered with a problem (RFC 9457); ``status`` is HTTP's."""

    def __init__(self, sentence: str, status: int, detail: str = "") -> None:
        super().__init__(sentence, detail)
        self.status = status


class Api:
    """``base``: the web process' URL without a final slash. Never asks through a proxy: it is this machine."""

    def __init__(self, base: str, token: str) -> None:
        self._base, self._token = base, token
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str) -> Any:
        return self.ask("GET", path)

    def find(self, path: str) -> Any | None:
        """None where there is no such thing."""
        try:
            return self.get(path)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self.ask("POST", path, body or {})

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One request below /api/v1/. What the API refuses is ``Refused``; no answer is ``Problem``."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(f"{self._base}/api/v1/{path}", data=data, headers=headers, method=method)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                    text = answer.read().decode()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                raise _refused(method, path, error) from error
            except (OSError, http.client.HTTPException) as error:
                # Only questions are asked again: whether a change was carried out is not known.
                if method != "GET" or time.monotonic() > deadline:
                    raise Problem(f"The web process does not answer ({error}): see `./roost logs web`.") from error
                time.sleep(0.3)


def _refused(method: str, path: str, error: urllib.error.HTTPError) -> Refused:
    text = error.read().decode(errors="replace")
    try:
        problem = json.loads(text)
        said = str(problem.get("detail") or problem.get("title") or "")
        remedy = str(problem.get("remedy") or "")
        fields = [f"{one['field']}: {one['message']} {one['remedy']}".strip() for one in problem.get("errors") or []]
        detail = "\n".join(fields or [remedy])
    except (ValueError, AttributeError, KeyError, TypeError):
        said, detail = "", text[-800:]
    return Refused(f"The API refused {method} {path} ({error.code}): {said}".rstrip(": "), error.code, detail)
