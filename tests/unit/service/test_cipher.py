"""Sealing in the contract's format, which Node's `crypto` reads and writes too."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from cloutagent_server.domain.secret import SealedSecret
from cloutagent_server.service.cipher import CannotOpen, Cipher, from_json, to_json
from tests.support.service_world import ENCRYPTION_KEY

OTHER_KEY = "ff" * 32
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
PLAINTEXTS = ("plain", "", "Grüße, 世界 🌍", 'line\nline\t"quoted" \\ {{x}}', "x" * 65_536)

# What the plan's skeleton describes: 16-byte IV, hex parts, no additional data.
NODE_SEAL = """
const crypto = require('crypto');
const [keyHex, texts] = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const key = Buffer.from(keyHex, 'hex');
process.stdout.write(JSON.stringify(texts.map((text) => {
  const iv = crypto.randomBytes(16);
  const cipher = crypto.createCipheriv('aes-256-gcm', key, iv);
  const encrypted = cipher.update(text, 'utf8', 'hex') + cipher.final('hex');
  return JSON.stringify({ iv: iv.toString('hex'), authTag: cipher.getAuthTag().toString('hex'), encrypted });
})));
"""
NODE_OPEN = """
const crypto = require('crypto');
const [keyHex, sealed] = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const key = Buffer.from(keyHex, 'hex');
process.stdout.write(JSON.stringify(sealed.map((text) => {
  const { iv, authTag, encrypted } = JSON.parse(text);
  const decipher = crypto.createDecipheriv('aes-256-gcm', key, Buffer.from(iv, 'hex'));
  decipher.setAuthTag(Buffer.from(authTag, 'hex'));
  return decipher.update(encrypted, 'hex', 'utf8') + decipher.final('utf8');
})));
"""


def node(script: str, arguments: object) -> list[str]:
    """What a Node script answers to JSON on its standard input."""
    done = subprocess.run(
        ["node", "-e", script], input=json.dumps(arguments), capture_output=True, text=True, timeout=30, check=True
    )
    answer: list[str] = json.loads(done.stdout)
    return answer


@pytest.fixture
def cipher() -> Cipher:
    return Cipher(ENCRYPTION_KEY)


def test_node_opens_what_the_cipher_sealed(cipher: Cipher) -> None:
    sealed = [to_json(cipher.seal(text)) for text in PLAINTEXTS]
    assert node(NODE_OPEN, [ENCRYPTION_KEY, sealed]) == list(PLAINTEXTS)


def test_the_cipher_opens_what_node_sealed(cipher: Cipher) -> None:
    sealed = node(NODE_SEAL, [ENCRYPTION_KEY, PLAINTEXTS])
    assert [cipher.open(from_json(text)) for text in sealed] == list(PLAINTEXTS)


@settings(max_examples=50)
@given(text=TEXTS, context=st.binary(max_size=40))
def test_what_was_sealed_opens_in_the_same_context(text: str, context: bytes) -> None:
    cipher = Cipher(ENCRYPTION_KEY)
    sealed = cipher.seal(text, context)
    assert cipher.open(sealed, context) == text
    assert cipher.open(from_json(to_json(sealed)), context) == text


def test_the_parts_have_the_sizes_of_the_contract(cipher: Cipher) -> None:
    sealed = cipher.seal("abc")
    assert [len(bytes.fromhex(part)) for part in (sealed.iv, sealed.auth_tag, sealed.encrypted)] == [16, 16, 3]


def test_another_key_does_not_open(cipher: Cipher) -> None:
    with pytest.raises(CannotOpen):
        Cipher(OTHER_KEY).open(cipher.seal("text"))


@pytest.mark.parametrize(("sealed_for", "opened_for"), [(b"a", b"b"), (b"a", b""), (b"", b"a")])
def test_another_context_does_not_open(cipher: Cipher, sealed_for: bytes, opened_for: bytes) -> None:
    with pytest.raises(CannotOpen):
        cipher.open(cipher.seal("text", sealed_for), opened_for)


def flipped(hex_digits: str) -> str:
    return f"{int(hex_digits[0], 16) ^ 1:x}{hex_digits[1:]}"


@pytest.mark.parametrize("part", ["iv", "auth_tag", "encrypted"])
def test_one_flipped_bit_does_not_open(cipher: Cipher, part: str) -> None:
    sealed = cipher.seal("text")
    with pytest.raises(CannotOpen):
        cipher.open(replace(sealed, **{part: flipped(getattr(sealed, part))}))


@pytest.mark.parametrize(
    "change",
    [
        {"iv": "00" * 12},
        {"iv": ""},
        {"auth_tag": "00" * 15},
        {"auth_tag": "00" * 4},
        {"iv": "zz" * 16},
        {"encrypted": "abc"},
    ],
)
def test_parts_of_another_form_do_not_open(cipher: Cipher, change: dict[str, str]) -> None:
    with pytest.raises(CannotOpen):
        cipher.open(replace(cipher.seal("text"), **change))


def test_a_tag_over_bytes_that_are_no_text_does_not_open() -> None:
    iv = b"\1" * 16
    sealed = AESGCM(bytes.fromhex(ENCRYPTION_KEY)).encrypt(iv, b"\xff\xfe", None)
    with pytest.raises(CannotOpen, match="text"):
        Cipher(ENCRYPTION_KEY).open(SealedSecret(iv.hex(), sealed[-16:].hex(), sealed[:-16].hex()))


@pytest.mark.parametrize("key", ["", "00" * 31, "00" * 33, "zz" * 32, "0" * 63 + "g", " " + "0" * 63])
def test_a_key_is_64_hex_digits(key: str) -> None:
    with pytest.raises(ValueError, match="64 hex digits"):
        Cipher(key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        "7",
        "null",
        '{"iv": "00", "authTag": "00"}',
        '{"iv": 1, "authTag": "00", "encrypted": "00"}',
        "[" * 100_000,
    ],
)
def test_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(CannotOpen):
        from_json(text)


def test_tampering_truncation_and_another_form_each_have_their_own_error(cipher: Cipher) -> None:
    sealed = cipher.seal("text")
    faults = {}
    for name, altered in {
        "altered": replace(sealed, encrypted=flipped(sealed.encrypted)),
        "cut off": replace(sealed, auth_tag=sealed.auth_tag[:-2]),
        "must be hex": replace(sealed, iv="zz" * 16),
    }.items():
        with pytest.raises(CannotOpen) as caught:
            cipher.open(altered)
        faults[name] = str(caught.value)
        assert name in faults[name]
    assert len(set(faults.values())) == 3
    with pytest.raises(CannotOpen, match="not JSON"):
        from_json(to_json(sealed)[:-1])
