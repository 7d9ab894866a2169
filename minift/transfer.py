"""Requests to a hub: with limits on time and size, retries, and checks of every answer.

In: a URL of the hub.  Out: JSON, or headers, or bytes.

A hub is not trusted.  It may stall, lie about a file, redirect elsewhere or never end; whatever it
does ends within the time-outs below with a `TransferError`.

    request  ->  answer  ->  redirect?  ->  bytes ... bytes
    |- TIMEOUT -|                           |- READ_TIMEOUT for each, and MIN_BYTES_PER_SECOND -|

The transport is the session of `huggingface_hub`, which brings proxies and certificates.  Its own
time-outs apply to each address and each read, and none applies to looking up a name; so each
request runs in a thread of its own, and the caller waits for that thread with one clock.
"""

from __future__ import annotations

import base64
import email.utils
import json
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

import huggingface_hub as hf
from huggingface_hub import constants

from minift.terminal import print_line

T = TypeVar("T")

TIMEOUT = 6.0  # seconds to connect and to get the first answer, so that a dead network fails fast
READ_TIMEOUT = 20.0  # seconds without a byte
MIN_BYTES_PER_SECOND = 1000  # on average over each SLOW_SECONDS; less would take for ever
SLOW_SECONDS = 30.0
RETRIES = 3  # of a request that failed for a reason that may pass
RETRY_SECONDS = 1.0  # before the first retry; each further one waits twice as long
MAX_RETRY_AFTER = 60.0  # seconds that a hub may ask to wait
MAX_REDIRECTS = 5
MAX_JSON_ANSWER = 10_000_000  # bytes; the description of a repository of 1,000 files has 0.1 MB
MAX_JSON_SECONDS = 60.0  # for all of it

REDIRECTS = {301, 302, 303, 307, 308}
MAY_PASS = {408, 416, 425, 429, 500, 502, 503, 504}
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
STATUSES = {  # reason and remedy
    401: ("it refuses access", LOG_IN),
    403: ("it refuses access", LOG_IN),
    404: ("it has no such file", "check the name and HF_ENDPOINT"),
    407: ("the proxy wants a password", "set it in HTTP_PROXY and HTTPS_PROXY"),
    429: ("it gets too many requests", f"try again later, or {LOG_IN}"),
}
WEB_PAGE = "it answers with a web page, such as the login page of a network"
WEB_PAGE_REMEDY = "open a page in a browser and log in, or check HF_ENDPOINT"


def log(message: str) -> None:
    """Print a line to stderr, under the program's name."""
    print_line(f"minift: {message}", to_stderr=True)


@dataclass(eq=False)
class TransferError(Exception):
    """A request that failed: the reason and, if there is a special one, the remedy.

    code: the hub's X-Error-Code, such as RepoNotFound; "" if there is none.
    may_pass: whether the same request may succeed later.
    wait: seconds that the hub asks to wait before that.
    """

    reason: str
    remedy: str = ""
    _: KW_ONLY
    code: str = ""
    status: int = 0
    may_pass: bool = False
    wait: float = 0.0


class Connection:
    """A hub: where it is, and the token for it."""

    def __init__(self) -> None:
        """Raises `TransferError` if HF_ENDPOINT is no address of a hub."""
        self.url, self._credentials = _parse_endpoint(constants.ENDPOINT)
        self._answered = False
        self._token: str | None = None

    def json(self, path: str) -> Any:
        """The JSON value at a path of the hub."""

        def attempt() -> Iterator[bytes]:
            end = time.monotonic() + MAX_JSON_SECONDS
            for block in self.blocks(path, limit=MAX_JSON_ANSWER):
                yield block
                if time.monotonic() > end:
                    raise TransferError(f"no whole answer within {MAX_JSON_SECONDS:g} seconds")

        data = self._patiently(lambda: b"".join(attempt()))
        try:
            return json.loads(data)
        except (ValueError, RecursionError):  # also numbers of 5,000 digits, deep nesting
            if data.lstrip()[:1] == b"<":
                raise TransferError(WEB_PAGE, WEB_PAGE_REMEDY) from None
            raise TransferError("its answer is not JSON") from None

    def head(self, path: str) -> Any:
        """The status and headers, an httpx.Response, that the hub gives for a path of it."""

        def attempt() -> Any:
            with self._open("HEAD", f"{self.url}/{path}", {}) as (answer, _):
                return answer

        answer = self._patiently(attempt)
        is_page = "html" in answer.headers.get("Content-Type", "")
        if is_page and "X-Repo-Commit" not in answer.headers:
            raise TransferError(WEB_PAGE, WEB_PAGE_REMEDY)
        return answer

    def blocks(
        self, path: str, start: int = 0, *, size: int | None = None, limit: int
    ) -> Iterator[bytes]:
        """The bytes at a path of the hub as they come, in one attempt.

        start: the first byte to send.  If the hub sends all bytes instead, the first block is
            empty, and all follow.
        size: of the whole, if the hub has announced it; more is left unread.  limit: of the whole.
        """
        wanted = {"range": f"bytes={start}-"} if start else {}
        with self._open("GET", f"{self.url}/{path}", wanted) as (answer, exchange):
            if answer.status_code == 206:
                if not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                    raise TransferError("it sends another part of the file", may_pass=True)
            elif start:
                start = 0
                yield b""
            length = answer.headers.get("Content-Length")
            if None not in (length, size) and length != str(size - start):
                raise TransferError(
                    f"it announced {size:,} bytes, and sends {length[:20]} from byte {start:,} on"
                )
            for block in exchange.blocks():
                if size is not None:
                    block = block[: size - start]
                start += len(block)
                if start > limit:
                    raise TransferError(f"it sends more than {limit:,} bytes")
                if block:
                    yield block
                if start == size:  # the hub may keep the connection open
                    return
        if size is not None and start < size:
            raise TransferError(f"it broke off at {start:,} of {size:,} bytes", may_pass=True)

    def _patiently(self, attempt: Callable[[], T]) -> T:
        failures = 0
        while True:
            try:
                return attempt()
            except TransferError as error:
                failures += 1
                wait_or_raise(error, failures)

    @contextmanager
    def _open(
        self, method: str, url: str, wanted: dict[str, str]
    ) -> Iterator[tuple[Any, _Exchange]]:
        """The answer to a request, and the exchange that its bytes come from.

        Redirects are followed, but for HEAD not one to another host that carries the announcement
        itself, as the redirect to the store of large files does.
        """
        for _ in range(MAX_REDIRECTS + 1):
            exchange = _Exchange(method, url, lambda to=url: self._headers(to) | wanted)
            try:
                answer = exchange.first(self._answered)
                self._answered = True
                if answer.status_code in REDIRECTS and "Location" in answer.headers:
                    target = _redirected(url, answer.headers["Location"])
                    announced = method == "HEAD" and "X-Repo-Commit" in answer.headers
                    if not announced or _same_site(url, target):
                        url = target
                        continue
                else:
                    _check_status(answer)
                if answer.headers.get("Content-Encoding", "identity") not in ("identity", ""):
                    raise TransferError("it compresses its answer, which it was asked not to")
                yield answer, exchange
                return
            finally:
                exchange.close()
        raise TransferError(f"it redirects more than {MAX_REDIRECTS} times")

    def _headers(self, url: str) -> dict[str, str]:
        """The headers of a request; the token and the password only for the hub itself."""
        headers = {
            "user-agent": f"minift; hf_hub/{hf.__version__}",
            "accept-encoding": "identity",  # sizes are those of the files
        }
        if not _same_site(self.url, url):
            return headers
        if self._credentials is not None:
            return headers | {"authorization": self._credentials}
        if self._token is None and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
            self._token = hf.get_token() or ""
        if self._token:
            # The transport would name the value of a header that it cannot send.
            if not re.fullmatch(r"[!-~]+", self._token):
                raise TransferError("HF_TOKEN is no token: it holds other characters", LOG_IN)
            headers["authorization"] = f"Bearer {self._token}"
        return headers


class _Exchange:
    """One request and its answer, in a thread of its own.

    `first` and `blocks` wait for the thread, and leave it behind if it does not come in time.
    """

    def __init__(self, method: str, url: str, headers: Callable[[], dict[str, str]]):
        self._method, self._url, self._headers = method, url, headers
        self._items: queue.Queue[Any] = queue.Queue(maxsize=8)
        self._closed = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        """Let the thread end."""
        self._closed.set()

    def first(self, answered: bool) -> Any:
        """The answer, an httpx.Response whose body is not read yet.

        answered: whether the hub has answered before.  If not, there is probably no network, and
            the failure is final.
        """
        try:
            item = self._next(TIMEOUT, f"no answer within {TIMEOUT:g} seconds")
        except TransferError as error:
            error.may_pass = error.may_pass and (answered or error.code == "broken")
            raise
        return item

    def blocks(self) -> Iterator[bytes]:
        """The bytes of the answer, as they come."""
        began, received = time.monotonic(), 0
        while True:
            block = self._next(READ_TIMEOUT, f"no byte for {READ_TIMEOUT:g} seconds")
            if block is None:
                return
            yield block
            received += len(block)
            seconds = time.monotonic() - began
            if seconds >= SLOW_SECONDS:
                if received < MIN_BYTES_PER_SECOND * seconds:
                    raise TransferError(
                        f"it sends {received / seconds:,.0f} bytes a second, less than the "
                        f"{MIN_BYTES_PER_SECOND:,} that are waited for"
                    )
                began, received = time.monotonic(), 0

    def _next(self, seconds: float, problem: str) -> Any:
        end = time.monotonic() + seconds
        while True:
            try:
                # Short waits, since Windows does not interrupt one for Ctrl-C.
                item = self._items.get(timeout=max(0.0, min(0.5, end - time.monotonic())))
            except queue.Empty:
                if time.monotonic() < end:
                    continue
                raise TransferError(problem, may_pass=True) from None
            if isinstance(item, Exception):
                raise _explained(item)
            return item

    def _run(self) -> None:
        try:
            client, headers = hf.get_session(), self._headers()
            # The clock of `_next` ends the wait; this one ends the thread that is left behind.
            limit = 2 * (TIMEOUT + READ_TIMEOUT)
            request = client.build_request(self._method, self._url, headers=headers, timeout=limit)
            answer = client.send(request, stream=True, follow_redirects=False)
            try:
                if self._put(answer) and self._method == "GET":
                    for block in answer.iter_raw():
                        if not self._put(block):
                            return
                self._put(None)
            finally:
                answer.close()
        except Exception as error:  # of the transport: its classes differ between versions
            self._put(error)

    def _put(self, item: Any) -> bool:
        """Hand an item over; False if nobody waits for it any more."""
        while not self._closed.is_set():
            try:
                self._items.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False


def hide_passwords(text: str) -> str:
    """A text without the user names and passwords of its URLs.

    >>> hide_passwords("no route to http://me:secret@hub:80/api")
    'no route to http://hub:80/api'
    """
    return re.sub(r"//[^/\s]*@", "//", text)


def _parse_endpoint(endpoint: str) -> tuple[str, str | None]:
    """The URL of the hub without user name and password, and these as a header."""
    parts = _split_web_url(endpoint)
    if parts is None or re.search(r"[\s?#]", endpoint):
        shown = endpoint.rpartition("@")[2]
        raise TransferError(
            f"HF_ENDPOINT, {shown!r:.100}, is no http or https URL",
            "correct it, or unset it",
            code="BadEndpoint",
        )
    url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    if parts.username is None:
        return url, None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return url, f"Basic {base64.b64encode(pair.encode()).decode()}"


def _redirected(url: str, location: str) -> str:
    """Where a redirect leads; `TransferError` if not to a web server."""
    parts = _split_web_url(location, url)
    if parts is None:
        raise TransferError("it redirects to an address that is no http or https URL")
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))


def _split_web_url(url: str, base: str = "") -> SplitResult | None:
    try:
        parts = urlsplit(urljoin(base, url))
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # an impossible port or IPv6 address
        return None
    return parts if valid else None


def _same_site(hub: str, url: str) -> bool:
    """Whether a URL is the hub's own, or the same over https instead of http.

    >>> _same_site("http://hub", "https://hub/x"), _same_site("https://hub", "http://hub/x")
    (True, False)
    """

    def origin(address: str) -> tuple[str, str | None, int]:
        parts = urlsplit(address)
        default = 443 if parts.scheme == "https" else 80
        return parts.scheme, parts.hostname, parts.port or default

    (scheme, host, port), target = origin(hub), origin(url)
    upgraded = ("https", host, 443) if (scheme, port) == ("http", 80) else None
    return target in ((scheme, host, port), upgraded)


def _check_status(answer: Any) -> None:
    """Raise `TransferError` unless an answer has the status of success."""
    status, code = answer.status_code, answer.headers.get("X-Error-Code", "")
    if status in (200, 206):
        return
    unknown = ("it fails", "try again later") if status >= 500 else ("its answer is unexpected", "")
    reason, remedy = STATUSES.get(status, unknown)
    reason = f"{reason}, status {status}"
    wait = _retry_after(answer.headers.get("Retry-After", ""))
    if wait > MAX_RETRY_AFTER:
        reason, remedy = f"{reason}, and asks to wait {wait:.0f} seconds", "try again after that"
    raise TransferError(
        reason, remedy, code=code, status=status, may_pass=status in MAY_PASS, wait=wait
    )


def _retry_after(text: str) -> float:
    """The seconds of a Retry-After header, which holds them or a date; 0 for anything else."""
    if re.fullmatch("[0-9]{1,9}", text.strip()):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def wait_or_raise(error: TransferError, failures: int) -> None:
    """Wait before another attempt, or raise the error if there shall be none."""
    if not error.may_pass or failures > RETRIES or error.wait > MAX_RETRY_AFTER:
        raise error
    seconds = max(error.wait, RETRY_SECONDS * 2 ** (failures - 1))
    log(f"{error.reason}; trying again in {seconds:.3g} seconds ({failures} of {RETRIES})")
    time.sleep(seconds)


def _explained(error: Exception) -> TransferError:
    """An error of the transport."""
    if isinstance(error, TransferError):
        return error
    kind, text = type(error).__name__, " ".join(str(error).split())
    reason = hide_passwords(text)[:200] or kind
    if "CERTIFICATE" in text.upper():
        remedy = "check the clock; behind a company's proxy set SSL_CERT_FILE to its certificate"
        return TransferError(reason, remedy)
    if kind == "FileNotFoundError":  # the transport read the settings of certificates
        return TransferError(reason, "check SSL_CERT_FILE and SSL_CERT_DIR")
    if "proxy" in f"{kind} {text}".lower():
        return TransferError(reason, "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY")
    broken = kind in ("ReadError", "WriteError", "RemoteProtocolError")
    passes = broken or kind in ("ConnectError", "ConnectTimeout", "ReadTimeout", "PoolTimeout")
    return TransferError(reason, code="broken" if broken else "", may_pass=passes)
