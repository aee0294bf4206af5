"""The language of pages for people: what they chose (a cookie), else what their browser asks for.

The API and its errors stay English whatever a client's library sends along.
"""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils import translation
from django.utils.cache import patch_vary_headers

Next = Callable[[HttpRequest], HttpResponse]
PATHS = ("/portal/", "/accounts/")


class PortalLanguage:
    """Middleware; other paths than the portal's are answered in the settings' language."""

    def __init__(self, get_response: Next) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        ours = request.path.startswith(PATHS)
        language = translation.get_language_from_request(request) if ours else settings.LANGUAGE_CODE
        with translation.override(language):
            request.LANGUAGE_CODE = language
            response = self.get_response(request)
        if ours:
            response.headers.setdefault("Content-Language", language)
            patch_vary_headers(response, ("Accept-Language", "Cookie"))
        return response
