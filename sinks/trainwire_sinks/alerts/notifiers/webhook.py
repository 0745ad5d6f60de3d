"""Posts alerts over HTTP."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Final

from trainwire_protocol.errors import DeliveryRefusedError, SettingError
from trainwire_protocol.journal.files import run_in_background
from trainwire_sinks.alerts.notifiers.base import Notifier, expand_environment
from trainwire_sinks.runtime.delivery_queue import Message

REFUSED_STATUSES: Final = frozenset({400, 410, 413, 415, 422})
"""Status codes after which a message is not retried."""


@dataclass(kw_only=True)
class Webhook(Notifier):
    """Posts the alert to a URL as JSON: the map of a line of `alerts.jsonl`.

    The header `Idempotency-Key` contains the alert's key. A status of 2xx accepts the alert; 400, 410, 413, 415 and 422
    refuse it permanently; after any other answer, including a redirection, it is retried. Proxies are taken from the
    environment.
    """

    kind = "webhook"

    url: str
    headers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._url = expand_environment("url", self.url)
        if not _is_http_url(self._url):
            raise SettingError(("url",), "url must begin with http:// or https:// and contain no spaces")
        if "@" in urllib.parse.urlsplit(self._url).netloc:
            raise SettingError(
                ("url",), "url must not contain a user: use headers = ['Authorization: Basic ${TOKEN}'] instead"
            )
        self._headers = dict(_parse_header(expand_environment("headers", header)) for header in self.headers)

    async def send(self, key: str, alert: Message) -> None:
        """Post the alert, on a daemon thread."""
        await run_in_background(self._post, key, json.dumps(alert, allow_nan=False).encode())

    def _post(self, key: str, body: bytes) -> None:
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": urllib.parse.quote(key),
            "User-Agent": "trainwire",
            **self._headers,
        }
        request = urllib.request.Request(self._url, body, headers, method="POST")
        try:
            with urllib.request.build_opener(_NoRedirection).open(request, timeout=self.timeout):
                return
        except urllib.error.HTTPError as error:
            error.close()
            kind = DeliveryRefusedError if error.code in REFUSED_STATUSES else OSError
            raise kind(f"the server answered {error.code} {error.reason}") from None
        except HTTPException as error:
            raise OSError(f"the server's answer is not valid HTTP: {error!r:.200}") from None


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: a redirected POST would become a GET without its body."""

    def redirect_request(self, *_: object) -> None:
        return None


def _is_http_url(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and re.fullmatch(r"[!-~]+", url) is not None


def _parse_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    is_token = re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) is not None
    if not colon or not is_token or not (value.isascii() and value.isprintable()):
        raise SettingError(("headers",), "each header must be a string such as 'Authorization: Bearer ${TOKEN}'")
    return name, value.strip()
