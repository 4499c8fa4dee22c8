"""Almost valid requests: a valid request of every route with something changed. The same seed always makes the same
request."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote, urlencode

from publisher.intake.wire.formats import Format
from tests.service import JSON, XML, basic
from tests.unit.intake.contract import CONTRACT, FILES, Belongings

FORM = "application/x-www-form-urlencoded"
BYTES = "application/octet-stream"


@dataclass(frozen=True)
class Sent:
    """A request, to be encoded as bytes. `framing`: the bytes may be invalid HTTP or fewer than announced. `hashes`:
    the server may have to hash a password for it."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""
    framing: bool = False
    hashes: bool = False
    raw: bytes | None = None

    def encoded(self) -> bytes:
        if self.raw is not None:
            return self.raw
        names = {name.lower() for name, _ in self.headers}
        length = () if {"content-length", "transfer-encoding"} & names else (("Content-Length", str(len(self.body))),)
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{n}: {v}" for n, v in (*self.headers, *length))]
        return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + self.body


@dataclass(frozen=True)
class Session:
    """The session of a user who is signed in to the console."""

    cookie: str
    csrf: str


def valid(objects: Sequence[Belongings], session: Session, login: str, password: str) -> list[Sent]:
    """Return at least one request per resource, format and owner."""
    authorized = (("Host", "x"), ("Authorization", basic(login, password)))
    made: list[Sent] = []
    for each in objects:
        for row in (*CONTRACT, *FILES):
            for form, kind in ((Format.XML, XML), (Format.JSON, JSON)):
                headers = (*authorized, ("Accept", kind), *((("Content-Type", kind),) if row.body else ()))
                made.append(Sent(row.method, f"/api/{each.path(row)}", headers, each.body(row, form)))
        upload = f"/api/users/{each.owner}/appliances/{each.ids['aid']}/images?name=x&format=raw&fileName=x.raw"
        made.append(Sent("POST", upload, (*authorized, ("Content-Type", BYTES)), b"an image"))
        status = f"/api/{each.path(next(row for row in CONTRACT if row.path.endswith('{pitid}/status')))}?wait=0.1"
        made.append(Sent("GET", status, (*authorized, ("If-None-Match", '"x"'))))
        listed = f"/api/users/{each.owner}/accounts?query=name=='*a*';dbId=gt=1&orderBy=name&count=5&offset=0"
        made.append(Sent("GET", listed, authorized))
    for path in ("/api/status", "/api/openapi.json", "/api/schema/uforge.xsd", "/docs", "/docs/start.js", "/healthz",
                 "/readyz", "/metrics", "/", "/console"):  # fmt: skip
        made.append(Sent("GET", path, (("Host", "x"),)))  # noqa: PERF401  # as those above
    return made + _pages(objects, session)


def _pages(objects: Sequence[Belongings], session: Session) -> list[Sent]:
    signed_in = (("Host", "x"), ("Cookie", session.cookie))
    ids = objects[0].ids
    paths = ["publications", "publications/events", f"publications/{ids['pitid']}", "publish", "images", "images/new",
             f"images/{ids['itid']}", "accounts", "accounts/new", f"accounts/{ids['caid']}", "users", "users/new",
             "users/bob", "roles", "audit", "keys", "fleet", "me", "sign-in", "nowhere"]  # fmt: skip
    forms: dict[str, dict[str, str]] = {
        "images/new": {"location": "x.raw", "name": "x", "format": "raw", "appliance": ""},
        "accounts/new": {"platform": "openstack", "name": "lab", "login": "demo", "keystoneUrl": "http://127.0.0.1:1"},
        f"accounts/{ids['caid']}": {"name": "lab", "login": "demo"},
        "publish": {"image": str(ids["itid"]), "account": str(ids["caid"]), "displayName": "x"},
        f"publications/{ids['pitid']}/cancel": {},
        f"publications/{ids['pitid']}/retry": {},
        "keys": {"name": "ci", "description": ""},
        "roles": {"name": "builders", "entitlement": "image_publish"},
        "users/bob/rights": {"entitlement": "image_publish"},
        "fleet/drain": {"worker": "none"},
        "me/sessions/0/end": {},
    }
    hashing: dict[str, dict[str, str]] = {
        "sign-in": {"login": "nobody", "password": "guess", "next": "/console/me"},
        "me/password": {"current": "guess", "new": "another", "again": "another"},
        "users/new": {"login": "dora", "password": "pass-w0rd", "again": "pass-w0rd"},
        "users/bob/password": {"password": "pass-w0rd", "again": "pass-w0rd"},
    }
    made = [Sent("GET", f"/console/{path}", signed_in) for path in paths]
    for path, fields in (forms | hashing).items():
        body = urlencode({"csrf": session.csrf, **fields}).encode()
        headers = (*signed_in, ("Origin", "http://x"), ("Content-Type", FORM))
        made.append(Sent("POST", f"/console/{path}", headers, body, hashes=path in hashing))
    upload = (*signed_in, ("X-CSRF-Token", session.csrf), ("Content-Type", BYTES))
    made.append(Sent("POST", "/console/images/upload?name=x&format=raw&file_name=x.raw", upload, b"an image"))
    return made


# Replacement values -----------------------------------------------------------------------------------------------

_TOKENS = [
    "", "0", "-1", "007", "99999999999999999999", "9" * 5000, "1e999", "NaN", "null", "true", "[]", "{}", "%00",
    "%zz", "%ff%fe", "%2e%2e%2f", "..", "../../etc/passwd", "*", "'", "' OR 1=1 --", "<script>", "{{7*7}}", "${x}",
    "\u00e5", "a" * 300, "a" * 20_000, "%F0%9F%98%80", ";", ",", "==", "=lt=", "\t", " ", "//", "?", "#", "@", ":",
    "\\", "|", "statuses", "root", "alice", "openstack", "memory", "raw", "%0d%0aX: y", "(((((", ")))))", "()" * 500,
    "a==b,",
]  # fmt: skip
_QUERIES = [
    "wait=61", "wait=-1", "wait=nan", "wait=1e9", "wait=0.05", "wait=0.05&wait=0.05", "count=0", "count=99999999999",
    "offset=-1", "descending=maybe", "orderBy=nothing", "orderBy=name", "img=7", "img=users/root",
    "img=" + "9" * 400, "query=", "query=name==", "query=" + "(" * 5000, "query=" + "name==a;" * 3000,
    "query=" + "(name==a;" * 300, "query=" + "name=='" + "*" * 3000 + "'", "query=dbId==" + "9" * 5000,
    "query=created=gt=x", "apiKey=x", "apiKey=x&signature=y", "apiKey=x&apiKey=y&signature=z", "signature=x",
    "downloadId=x", "id=x", "=", "&" * 5000, "a&" * 15_000, "a=b&" * 10_000, "%", "next=//evil.example",
    "next=" + "a" * 5000, "page=-1", "page=" + "9" * 50, "extensions=true", "format=iso&name=", "state=nothing",
    "owner=%00", "from=x&to=y",
]  # fmt: skip
_HEADERS: dict[str, list[str]] = {
    "Accept": [
        "*/*", "image/png", "application/json;q=0", "text/html", "text/plain", ",", ";q=", "*/*;q=" + "9" * 999,
        "a/b," * 8000, "application/json;" * 3000, "application/xml;q=0.1," * 1500, "\xff", "q=1;" * 9000,
    ],
    "Content-Type": [
        "", "text/plain", "application/xml; charset=utf-16", "application/json; charset=latin-1", ";" * 9000,
        "application/xml; charset=" + "x" * 9000, "text/xml", "multipart/form-data; boundary=x", FORM,
        "application/json", "application/xml", BYTES, 'application/xml; charset="', "charset=" * 3000,
    ],
    "Content-Encoding": ["gzip", "identity", "br, gzip", "", "," * 9000],
    "Authorization": [
        "Basic", "Basic =", "Basic " + "A" * 40_000, "Bearer x", "Digest x", "Basic \xff", "Negotiate",
        basic("root", "wrong"), basic("r\u00f6\u00f6t", "x"), basic("a" * 5000, "b" * 5000), basic("", ""),
    ],
    "If-None-Match": ["*", '""', "W/" * 9000, '"a",' * 9000, ",", '"', "\xff"],
    "If-Modified-Since": [
        "x", "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 99 Nov 9999 99:99:99 GMT", "0", "9" * 9000,
        "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 +9999999", "Fri, 31 Dec 9999 23:59:59 -2359",
    ],
    "Range": [
        "bytes=0-", "bytes=-", "bytes=9-1", "bytes=-0", "bytes=0-0,1-1," * 3000, "bytes=" + "9" * 9000 + "-",
        "x=1-2",
    ],
    "If-Range": ['"x"', "x", ""],
    "Idempotency-Key": ["k", "", " ", "a" * 256, "a" * 30_000, "\xff", "a b"],
    "Host": ["", "a b", "[", "[::1", "x:99999", "x" * 30_000, "evil.example", "@", "\xe5", "x, y"],
    "Cookie": ["", "=", ";" * 9000, "a=b; " * 5000, "session=x", 'session="', "\xff", "flash=%%%"],
    "Origin": ["null", "http://evil.example", "http://[", "x"],
    "Expect": ["100-continue", "x"],
    "Connection": ["close", "keep-alive, Upgrade", "x" * 9000],
    "Upgrade": ["websocket", "h2c"],
    "X-Request-Id": ["x", "\xff", "a" * 9000, "a b;c"],
    "X-Forwarded-For": ["1.2.3.4", "x," * 5000],
    "X-CSRF-Token": ["", "x", "\xe5"],
    "traceparent": ["00-" + "0" * 32 + "-" + "0" * 16 + "-00", "x"],
    "Sec-Fetch-Site": ["cross-site", "same-origin"],
    "TE": ["trailers"],
    "X": ["y" * 30_000, "", "\t", "\xa0"],
}  # fmt: skip
_LENGTHS = ["0", "1", "7", "999999", "-1", "+5", "0x5", "5, 5", "1e3", " ", "9" * 30, "\u00b2", "5_0", "00000000005"]
_CODINGS = [
    "chunked", "Chunked", "gzip", "gzip, chunked", "chunked, chunked", "identity", "", "chunked;x=y", "\x0bchunked",
]  # fmt: skip
_PIECES = [
    b"\x00", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"<", b">", b"&", b"&amp;", b"&x;", b"&#0;",
    b"&#x110000;", b"<!DOCTYPE x [<!ENTITY y 'z'>]>", b"<![CDATA[", b"]]>", b"<!--", b"<?x?>",
    b"<xsi:type></xsi:type>", b'"', b"\\", b"\\u0000", b"\\ud800", b"{", b"}", b"[", b"]", b",", b":", b"null",
    b"true", b"1e400", b"-", b"9" * 400, b"9" * 20_000, b"[" * 100, b"[" * 50_000, b'"' * 100_000, b'{"a":' * 50_000,
    b"<a>" * 50_000, b"<a/>" * 30_000, b"a=b&" * 2000, b"%", b"%00", b"&" * 50_000, b' xmlns:a="u"', b' x="y"',
    b" " * 100_000, b"\r\n", b"a" * 70_000, b'"@type":"PublishImageAws",', b'"@type":7,', b"\xe5",
]  # fmt: skip
_METHODS = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "BREW", "G" * 300,
    "PROPFIND",
]  # fmt: skip


def mutated(seed: str, requests: Sequence[Sent]) -> Sent:
    """Return one of the requests with one to three changes."""
    chance = random.Random(seed)  # noqa: S311  # no secret
    made = chance.choice(requests)
    for _ in range(chance.choice((1, 1, 2, 3))):
        made = chance.choices(_WAYS, _WEIGHTS)[0](made, chance)
    return _framed(made, chance) if chance.random() < 0.08 else made


def _method(sent: Sent, chance: random.Random) -> Sent:
    return replace(sent, method=chance.choice(_METHODS))


def _path(sent: Sent, chance: random.Random) -> Sent:
    path, mark, query = sent.target.partition("?")
    parts = path.split("/")
    at = chance.randrange(1, len(parts)) if len(parts) > 1 else 0
    token = quote(chance.choice(_TOKENS), safe="%/;,=*'()@:\\|?#")
    change = chance.randrange(4)
    if change == 0:
        parts[at] = token
    elif change == 1:
        parts.insert(at, token)
    elif change == 2:
        del parts[at]
    else:
        parts[at] += token
    return replace(sent, target=("/".join(parts) or "/") + mark + query)


def _query(sent: Sent, chance: random.Random) -> Sent:
    path, mark, query = sent.target.partition("?")
    added = chance.choice(_QUERIES) if chance.random() < 0.8 else f"{quote(chance.choice(_TOKENS))}={chance.random()}"
    joined = added if not mark or chance.random() < 0.5 else f"{query}&{added}"
    return replace(sent, target=f"{path}?{joined.replace(' ', '%20')}")


def _header(sent: Sent, chance: random.Random) -> Sent:
    name = chance.choice(list(_HEADERS))
    value = chance.choice(_HEADERS[name])
    kept = sent.headers if chance.random() < 0.1 else tuple(each for each in sent.headers if each[0] != name)
    hashes = sent.hashes or name == "Authorization"
    return replace(sent, headers=(*kept, (name, value)), hashes=hashes)


def _without_a_header(sent: Sent, chance: random.Random) -> Sent:
    if not sent.headers:
        return sent
    gone = chance.randrange(len(sent.headers))
    return replace(sent, headers=tuple(each for at, each in enumerate(sent.headers) if at != gone))


def _length(sent: Sent, chance: random.Random) -> Sent:
    name, values = chance.choice((("Content-Length", _LENGTHS), ("Transfer-Encoding", _CODINGS)))
    return replace(sent, headers=(*sent.headers, (name, chance.choice(values))), framing=True)


def _body(sent: Sent, chance: random.Random) -> Sent:
    body = sent.body
    at, until = sorted((chance.randrange(len(body) + 1), chance.randrange(len(body) + 1)))
    change = chance.randrange(6)
    if change == 0:
        body = body[:at]
    elif change == 1:
        body = body[:at] + chance.choice(_PIECES) + body[at:]
    elif change == 2:
        body = body[:at] + body[until:]
    elif change == 3:
        body = body[:at] + body[at:until] * chance.choice((2, 3, 50)) + body[until:]
    elif change == 4 and body:
        flipped = bytearray(body)
        for _ in range(chance.randrange(1, 8)):
            flipped[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
        body = bytes(flipped)
    else:
        values = list(re.finditer(rb'>[^<>]+<|:"[^"]*"|=[^&=]+', body))
        if values:
            value = chance.choice(values)
            piece = chance.choice(_PIECES)
            body = body[: value.start() + 1] + piece + body[value.end() - 1 :]
    return replace(sent, body=body[: 3 << 20])


def _framed(sent: Sent, chance: random.Random) -> Sent:
    """Change the head of the encoded request, or cut off its end."""
    raw = sent.encoded()
    head = raw.index(b"\r\n\r\n")
    at = chance.randrange(head)
    change = chance.randrange(5)
    if change == 0:
        raw = raw[:at]
    elif change == 1:
        raw = raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
    elif change == 2:
        raw = raw[:at] + chance.choice((b"\r", b"\n", b"\r\n", b"\0", b" ", b"\x80", b":", b"\r\n ")) + raw[at:]
    elif change == 3:
        raw = raw[:head].replace(b"\r\n", b"\n") + b"\n\n" + raw[head + 4 :]
    else:
        raw = (
            raw[:head]
            + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
            + chance.choice(
                (
                    b"5\r\nabc",
                    b"zz\r\n",
                    b"-1\r\n\r\n",
                    b"ffffffffffffffffffff\r\n",
                    b"0\r\nX: y\r\n\r\n",
                    b"5;x=y\r\nabcde\r\n0\r\n\r\n",
                )
            )
        )
    return replace(sent, raw=raw, framing=True, hashes=True)


_WAYS: list[Callable[[Sent, random.Random], Sent]] = [
    _method, _path, _query, _header, _without_a_header, _length, _body,
]  # fmt: skip
_WEIGHTS = [1, 4, 3, 5, 1, 1, 6]
