"""Ways in which a hub misbehaves, one function for each; `loopback_hub` serves them."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from itertools import chain, count, repeat

from support.loopback_hub import Answer, Ask, Behaviour, LoopbackHub

LOGIN_PAGE = b"<!DOCTYPE html><html><body>Welcome to the hotel, please log in</body></html>"

EVERY = range(1_000_000)
FIRST = range(1)
LATER = range(1, 1_000_000)


def on(where: str, spoil: Behaviour, when: range = EVERY) -> Behaviour:
    """Spoil the answers about `where` only: "api", a file, "files", "store" or "all".

    when: which of them; the first answer about a file is 0, whatever its method.
    """

    def behave(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
        kinds = {"all", ask.file, ask.kind, "files" if ask.file else "api"}
        if where in kinds and ask.nth in when:
            spoil(hub, ask, answer)

    return behave


def header(name: str, *values: object) -> Behaviour:
    return lambda hub, ask, answer: answer.set(name, *values)


def etag(value: str) -> Behaviour:
    """The name under which `huggingface_hub` stores a file, for small files and for stored ones."""

    def spoil(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
        for name in ("ETag", "X-Linked-ETag"):
            if answer.get(name):
                answer.set(name, value)

    return spoil


def status(code: int, retry_after: object = None) -> Behaviour:
    def spoil(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
        answer.status = code
        answer.headers = [] if retry_after is None else [("Retry-After", str(retry_after))]
        answer.fill(b"the hub is not well")

    return spoil


def error_code(code: int, name: str) -> Behaviour:
    """A refusal with the reason that huggingface.co gives in a header."""

    def spoil(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
        status(code)(hub, ask, answer)
        answer.set("X-Error-Code", name)

    return spoil


def login_page(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
    """The page of a hotel's network, with status 200, instead of the true answer."""
    answer.status, answer.headers = 200, [("Content-Type", "text/html")]
    answer.fill(LOGIN_PAGE)


def says(body: bytes) -> Behaviour:
    return lambda hub, ask, answer: answer.fill(body)


def about(**facts: object) -> Behaviour:
    """JSON about the repository with other facts."""

    def spoil(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
        if ask.kind == "api":
            answer.fill(json.dumps(hub.about() | facts).encode())

    return spoil


def more_siblings(*siblings: object) -> Behaviour:
    """JSON about the repository with more files than there are."""

    def spoil(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
        about(siblings=[*hub.about()["siblings"], *siblings])(hub, ask, answer)

    return spoil


def each_sibling(**facts: object) -> Behaviour:
    """JSON about the repository with other facts about each file."""

    def spoil(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
        siblings = [sibling | facts for sibling in hub.about()["siblings"]]
        about(siblings=siblings)(hub, ask, answer)

    return spoil


def pages_of(megabytes: int) -> Behaviour:
    """A valid JSON list of white space, as announced."""

    def spoil(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
        answer.body = chain([b"["], (b" " * 1_000_000 for _ in range(megabytes)), [b"]"])
        answer.set("Content-Length", megabytes * 1_000_000 + 2)

    return spoil


def gzip_bomb(megabytes: int) -> Behaviour:
    """A few hundred kilobytes that become so many megabytes in memory."""
    packer = zlib.compressobj(1, wbits=31)
    parts = [packer.compress(b" " * 1_000_000) for _ in range(megabytes)]
    bomb = b"".join([*parts, packer.flush()])

    def spoil(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
        answer.fill(bomb)
        answer.set("Content-Encoding", "gzip")

    return spoil


def other_bytes(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
    """The right length, announced as it truly is, with other bytes."""
    if isinstance(answer.body, bytes):
        answer.body = bytes(byte ^ 1 for byte in answer.body)


def shorter(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
    """Half of a file, and a Content-Length that agrees."""
    answer.fill(answer.body[: len(answer.body) // 2])


def longer(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
    answer.fill(answer.body + b"more")


def cut(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
    """Half of a file; the connection ends before the announced length."""
    answer.body = answer.body[: len(answer.body) // 2]


def endless(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
    """A body without a length and without an end."""
    answer.set("Content-Length")
    answer.body = chain([answer.body], repeat(b"x" * 65_536))


def endless_chunks(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
    endless(hub, ask, answer)
    answer.set("Transfer-Encoding", "chunked")
    answer.body = repeat(b"10000\r\n" + b"x" * 65_536 + b"\r\n")


def without_length(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
    """The true body; its end is the end of the connection."""
    answer.set("Content-Length")


def keeps_open(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
    """The true body without a length, after which the connection stays open."""

    def body(data: bytes) -> Iterator[bytes]:
        yield data
        hub.hold()

    answer.set("Content-Length")
    answer.body = body(answer.body)


def slow(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
    """Ten bytes a second."""

    def trickle(body: bytes) -> Iterator[bytes]:
        for byte in body:
            yield bytes([byte])
            hub.hold(0.1)

    answer.body = trickle(answer.body)


def pause(seconds: float) -> Behaviour:
    """The true body, its second half after a pause."""

    def spoil(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
        def halves(body: bytes) -> Iterator[bytes]:
            yield body[: len(body) // 2]
            hub.hold(seconds)
            yield body[len(body) // 2 :]

        answer.body = halves(answer.body)

    return spoil


def stalls(at: str) -> Behaviour:
    """Say nothing more from here: "start", in the "headers", after the "head", or in the "body"."""

    def spoil(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
        half = len(answer.body) // 2
        said = {
            "start": b"",
            "headers": answer.head()[:40],
            "head": answer.head(),
            "body": answer.head() + answer.body[:half],
        }[at]

        def stall() -> Iterator[bytes]:
            yield said
            hub.hold()

        answer.raw = stall()

    return spoil


def header_trickle(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
    """One byte of a header every tenth of a second, without end."""

    def trickle() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nX-Long: "
        while True:
            yield b"x"
            hub.hold(0.1)

    answer.raw = trickle()


def endless_headers(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
    lines = (b"X-Header-%d: %s\r\n" % (number, b"x" * 1000) for number in count())
    answer.raw = chain([b"HTTP/1.1 200 OK\r\n"], lines)


def wait_a_moment(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
    """Informational answers without end, and never the real one."""

    def continues() -> Iterator[bytes]:
        while True:
            yield b"HTTP/1.1 103 Early Hints\r\n\r\n"
            hub.hold(0.01)

    answer.raw = continues()


def no_http(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
    """Bytes of some other protocol."""
    answer.raw = iter([b"\x16\x03\x01\x02\x00\x01\x00" * 20])


def reset(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
    answer.reset = True


def redirect(location: str, code: int = 302) -> Behaviour:
    """To a place whose {url} is the hub's and {file} the file's, with no word about the file."""

    def spoil(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
        answer.status = code
        answer.headers = [("Location", location.format(url=hub.url, file=ask.file))]
        answer.fill(b"")

    return spoil


def renamed(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
    """Requests for another repository lead to this one, by a path without the host."""
    if ask.repo not in ("", hub.repo):
        place = f"/{hub.repo}/resolve/{hub.commit}/{ask.file}"
        redirect(place if ask.file else f"/api/models/{hub.repo}", 307)(hub, ask, answer)


ODD = ["", "../../../../canary/evil", "/etc/passwd", "x" * 5000, "-1", "9" * 30, "0", "\xff", "{}"]
ODD_JSON = [None, True, -1, 10**30, 0.5, [], {}, [[]], {"a": 1}, *ODD]


def at_random(generator: random.Random, share: float) -> Behaviour:
    """Spoil each answer with this probability in a random way: status, header, JSON or body."""

    def of_status(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
        answer.status = generator.choice(
            [199, 201, 204, 206, 300, 304, 308, 400, 416, 418, 500, 999]
        )

    def of_header(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
        name, true = generator.choice(answer.headers)
        odd = generator.choice([*ODD, true[::-1], true[:-1], true + "x"])
        answer.set(name, *generator.choice([(), (odd,), (true, odd), (odd, true)]))

    def of_body(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
        body = bytearray(answer.body or b"x")
        at = generator.randrange(len(body))
        body[at : at + 1] = generator.choice([b"", b"ab", bytes([body[at] ^ 1]), b"\xff"])
        if generator.random() < 0.5:
            answer.fill(bytes(body))
        answer.body = bytes(body)

    def of_json(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
        if not ask.file:
            value = json.loads(answer.body)
            spoil_json(value, generator)
            answer.fill(json.dumps(value).encode())

    def spoil(hub: LoopbackHub, ask: Ask, answer: Answer) -> None:
        if generator.random() < share:
            generator.choice([of_status, of_header, of_header, of_body, of_json, cut])(
                hub, ask, answer
            )

    return spoil


def spoil_json(value: dict | list, generator: random.Random) -> None:
    """Replace or remove one random part of a JSON value, at a random depth."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    if not keys:
        return
    key = generator.choice(keys)
    if isinstance(value[key], dict | list) and generator.random() < 0.8:
        spoil_json(value[key], generator)
    elif generator.random() < 0.3:
        del value[key]
    else:
        value[key] = generator.choice(ODD_JSON)
