"""A stand-in for curl where there is none: a program with the options that the documentation uses."""

from __future__ import annotations

import argparse
import http.client
import sys
from urllib.parse import urlsplit


def main() -> int:
    """Make one request and print the answer; 22 with `-f` and an error, as curl."""
    parser = argparse.ArgumentParser(prog="curl")
    parser.add_argument("url")
    parser.add_argument("-d", dest="data")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-X", dest="method")
    for flag in ("-f", "-s", "-S", "-N", "-i"):
        parser.add_argument(flag, action="store_true")
    given = parser.parse_args()
    url = urlsplit(given.url)
    assert url.hostname is not None
    headers = {name.strip(): value.strip() for name, value in (header.split(":", 1) for header in given.headers)}
    body = sys.stdin.read() if given.data == "@-" else given.data
    if body is not None:
        headers.setdefault("content-type", "application/x-www-form-urlencoded")
    method = given.method or ("GET" if body is None else "POST")
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
    target = f"{url.path}?{url.query}" if url.query else url.path
    connection.request(method, target, None if body is None else body.encode(), headers)
    answer = connection.getresponse()
    if given.f and answer.status >= 400:
        print(f"curl: (22) The requested URL returned error: {answer.status}", file=sys.stderr)
        return 22
    if given.i:
        lines = [
            f"HTTP/1.1 {answer.status} {answer.reason}",
            *(f"{name}: {value}" for name, value in answer.getheaders()),
        ]
        sys.stdout.buffer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode())
    sys.stdout.buffer.write(answer.read())
    return 0


if __name__ == "__main__":
    sys.exit(main())
