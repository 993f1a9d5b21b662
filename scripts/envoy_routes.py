"""The routes of `envoy.yaml` that refuse: methods that a path does not take, and bodies that are not JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet

BEGIN = "# Generated from protos/ by `make generate`: not to be edited from here.\n"
END = "# To here.\n"

_INDENT = " " * 24
_VERBS = ("get", "put", "post", "delete", "patch")
_VARIABLE = re.compile(r"{[\w.]+}")
# A colon begins the verb of a custom method, as in `secrets:encrypt`.
_SEGMENT = "[^/:]+"
_JSON = r"(?i)application/([\w.+-]+\+)?json\s*(;.*)?"
# And what curl says by itself of a body, which is taken for JSON.
_JSON_OR_FORM = r"(?i)application/(([\w.+-]+\+)?json|x-www-form-urlencoded)\s*(;.*)?"
# That Envoy answers by itself.
_ANSWERED = "  typed_per_filter_config: *answered"
_NOT_JSON = "the content-type must be application/json"
# What Envoy answers by itself, and the protos do not know.
_PAGES = ("/api/docs", "/api/docs[.]css", "/api/openapi[.]json")


@dataclass
class PathRoute:
    """A path of the REST API.

    Attributes:
        pattern: A regular expression that fits the path, without its query.
        methods: The HTTP methods that it takes, OPTIONS among them; HEAD where there is a GET that is not a stream.
        writes: Whether one of them has a body.
    """

    pattern: str
    methods: set[str]
    writes: bool = False

    @property
    def allow(self) -> str:
        """The methods as in the header Allow."""
        return ", ".join(sorted(self.methods))


def path_routes(image: FileDescriptorSet) -> list[PathRoute]:
    """All paths that the `google.api.http` options in these files name, and those of the documentation, sorted."""
    found = {pattern: PathRoute(pattern, {"GET", "HEAD", "OPTIONS"}) for pattern in _PAGES}
    for file in image.file:
        for service in file.service:
            for method in service.method:
                rule = method.options.Extensions[annotations_pb2.http]
                for verb, template in _bindings(rule):
                    pattern = _VARIABLE.sub(_SEGMENT, template)
                    path = found.setdefault(pattern, PathRoute(pattern, {"OPTIONS"}))
                    path.methods.add(verb)
                    path.writes |= bool(rule.body)
                    if verb == "GET" and not method.server_streaming:
                        path.methods.add("HEAD")
    return [found[pattern] for pattern in sorted(found)]


def rendered_routes(paths: list[PathRoute]) -> str:
    """The generated part of `envoy.yaml`: first the refusals of methods, then those of bodies."""
    lines: list[str] = []
    for allow, group in groupby(sorted(paths, key=_allow), _allow):
        alike = list(group)
        lines += [
            "- name: methods",
            *_match(alike, [_unless(":method", "|".join(sorted(alike[0].methods - {"OPTIONS"})))]),
            "  route: {cluster: server}",
            f'  metadata: {{filter_metadata: {{envoy.filters.http.lua: {{allow: "{allow}"}}}}}}',
            _ANSWERED,
        ]
    writes = [path for path in paths if path.writes]
    with_body = ["- name: ':method'", "  string_match: {safe_regex: {regex: PATCH|POST|PUT}}"]
    # A page of any origin may send what is not JSON without asking: it must not come to a call that needs no key.
    of_a_page = ["- {name: origin, present_match: true}", "- {name: x-api-key, present_match: false}"]
    for headers in (
        [with_body, _unless("content-type", _JSON_OR_FORM)],
        [with_body, of_a_page, [*_unless("content-type", _JSON), "  treat_missing_header_as_empty: true"]],
    ):
        lines += [
            "- name: media_type",
            *_match(writes, headers),
            "  route: {cluster: server}",
            f"  metadata: {{filter_metadata: {{envoy.filters.http.lua: {{status: '415', message: {_NOT_JSON}}}}}}}",
            _ANSWERED,
        ]
    return "".join(f"{_INDENT}{line}\n" for line in lines)


def write_routes(image: FileDescriptorSet, source: Path, target: Path) -> None:
    """Write `source`, an `envoy.yaml`, to `target` with the generated part made anew from these files.

    Raises:
        ValueError: `source` does not mark where the generated part begins and ends.
    """
    text = source.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{source} does not mark its generated part")
    target.write_text(before + begin + rendered_routes(path_routes(image)) + _INDENT + end + after, encoding="utf-8")


def _bindings(rule: http_pb2.HttpRule) -> Iterator[tuple[str, str]]:
    """HTTP method and path of a rule and of its additional bindings."""
    verb = rule.WhichOneof("pattern")
    if verb in _VERBS:
        yield verb.upper(), getattr(rule, verb)
    for other in rule.additional_bindings:
        yield from _bindings(other)


def _allow(path: PathRoute) -> str:
    return path.allow


def _match(paths: list[PathRoute], headers: list[list[str]]) -> list[str]:
    *others, last = [path.pattern for path in paths]
    return [
        "  match:",
        "    headers:",
        *(f"      {line}" for header in headers for line in header),
        "    safe_regex:",
        '      regex: "\\',
        *(f"        {pattern}|\\" for pattern in others),
        f'        {last}"',
    ]


def _unless(header: str, regex: str) -> list[str]:
    """A match of a header that is there and is not this."""
    return [
        f"- name: '{header}'",
        "  string_match:",
        "    safe_regex:",
        f"      regex: '{regex}'",
        "  invert_match: true",
    ]
