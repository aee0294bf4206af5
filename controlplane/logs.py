"""How processes log: one line an event, with what is bound to it; JSON in production. And what never gets into one.

``request`` is bound where a request comes in, goes with the resources that it touched (``WorkItem.origin``) and is
bound again around their passes, so that one word finds what an API call has led to, up to ansible's run on a node.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

JSON, LINES = "json", "lines"
REDACTED = "***"
#: What a secret looks like wherever it turns up. The second net: the first is that secrets are ``values.Secret``.
_SECRETS = re.compile(
    r"""
      rst_[a-z0-9]+_[A-Za-z0-9_-]{16,}                                  # our API tokens
    | (?<=-----BEGIN[ ]PRIVATE[ ]KEY-----).*?(?=-----END[ ]PRIVATE[ ]KEY-----|$)
    | (?<=-----BEGIN[ ]EC[ ]PRIVATE[ ]KEY-----).*?(?=-----END[ ]EC[ ]PRIVATE[ ]KEY-----|$)
    | (?<=-----BEGIN[ ]OPENSSH[ ]PRIVATE[ ]KEY-----).*?(?=-----END[ ]OPENSSH[ ]PRIVATE[ ]KEY-----|$)
    | (?i:(?<=bearer[ ]))[A-Za-z0-9._~+/-]{8,}=*                         # RFC 6750 §2.1
    | (?i:(?<=password=)|(?<=passwd=)|(?<=secret=)|(?<=api_key=)|(?<=token=))[^\s&'",;}]{4,}
    | (?i:(?<=password":[ ]")|(?<=secret":[ ]")|(?<=password':[ ]')|(?<=secret':[ ]'))[^"']+
    | (?<=://)[^\s:/@]+:[^\s/@]+(?=@)                                   # user and password of a URL
    """,
    re.VERBOSE | re.DOTALL,
)
Event = MutableMapping[str, Any]


def without_secrets(text: str) -> str:
    """The text with what looks like a secret taken out of it."""
    return _SECRETS.sub(REDACTED, text)


def _redact(_: object, __: str, event: Event) -> Event:
    """The last but one processor: messages, tracebacks and bound values alike."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = without_secrets(value)
        elif not isinstance(value, int | float | bool | type(None)):
            event[name] = without_secrets(str(value))
    return event


def _line(_: object, __: str, event: Event) -> str:
    """``time LEVEL logger message  name=value …``; a traceback on the lines after it."""
    time, level, name = event.pop("timestamp", ""), str(event.pop("level", "")).upper(), event.pop("logger", "")
    message, trace = event.pop("event", ""), event.pop("exception", "")
    bound = " ".join(f"{key}={value}" for key, value in sorted(event.items()))  # contextvars have no order
    line = f"{time} {level} {name} {message}" + (f"  [{bound}]" if bound else "")
    return f"{line}\n{trace}" if trace else line


def formatter(style: str) -> structlog.stdlib.ProcessorFormatter:
    """For ``logging``'s configuration. ``style``: ``JSON`` or ``LINES``."""
    last: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _redact]
    last.append(structlog.processors.JSONRenderer() if style == JSON else _line)
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
        ],
        processors=last,
    )


def configuration(style: str, level: str) -> dict[str, Any]:
    """Django's LOGGING."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"event": {"()": "controlplane.logs.formatter", "style": style}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "event"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            "slixmpp": {"level": "ERROR"},
            "aioice": {"level": "WARNING"},
            "acme": {"level": "WARNING"},
            "urllib3": {"level": "WARNING"},
        },
    }


def bound(**values: str) -> Any:
    """A context within which each event of this thread or task has these values beside its message."""
    return structlog.contextvars.bound_contextvars(**values)


def context() -> Mapping[str, Any]:
    """What is bound now."""
    return structlog.contextvars.get_contextvars()
