"""Settings: every fault in one pass, no secret in any print, and the rules for keys."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from cloutagent_server.settings import (
    Environment,
    InvalidSettings,
    LogLevel,
    Settings,
    StorageKind,
    is_loopback,
    load,
    reached_at,
    split_keys,
    with_encryption_key,
)
from tests.support.certificates import Authority

VENDOR_KEY = "sk-ant-" + "v" * 30
ENCRYPTION_KEY = "ab" * 32
ADMIN_KEY = "an-admin-key-of-some-length"
LOCAL_URL = "http://127.0.0.1:4010"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without any setting, in a folder without `.env`."""
    names = {name.upper() for name in Settings.model_fields} | {"NODE_ENV"}
    for name in list(os.environ):
        if name.upper() in names:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment with the one setting that development needs."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", VENDOR_KEY)
    return monkeypatch


def faults() -> list[str]:
    with pytest.raises(InvalidSettings) as caught:
        load()
    assert str(caught.value) == "\n".join(caught.value.faults)
    return caught.value.faults


def test_development_needs_a_vendor_key_alone(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = load()
    assert settings.app_env is Environment.DEVELOPMENT
    assert (settings.host, settings.port) == ("127.0.0.1", 3001)
    assert (settings.grpc_host, settings.grpc_port) == ("127.0.0.1", 50051)
    assert settings.max_concurrent_executions == 3
    assert settings.log_level is LogLevel.INFO
    assert settings.storage is StorageKind.FILESYSTEM
    assert settings.project_root == tmp_path / "data" / "projects"
    assert settings.backup_enabled and settings.backup_root == tmp_path / "data" / "backups"
    assert (settings.backup_hour, settings.backup_keep) == (3, 7)
    assert settings.encryption_key is None and settings.admin_api_key is None
    assert settings.anthropic_base_url == "https://api.anthropic.com"


def test_every_setting_is_read_from_its_variable(env: pytest.MonkeyPatch) -> None:
    for name, value in {
        "APP_ENV": "test",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:4010/",
        "ENCRYPTION_KEY": ENCRYPTION_KEY,
        "ADMIN_API_KEY": ADMIN_KEY,
        "LOG_LEVEL": "debug",
        "PORT": "0",
        "GRPC_PORT": "65535",
        "PROJECT_ROOT": "/srv/projects",
        "BACKUP_ENABLED": "false",
        "BACKUP_ROOT": "/srv/backups",
        "BACKUP_HOUR": "23",
        "BACKUP_KEEP": "1",
        "MAX_CONCURRENT_EXECUTIONS": "7",
        "AGENT_MEMORY_LIMIT": "512MiB",
        "AGENT_CPU_LIMIT": "60",
        "AGENT_PROCESS_LIMIT": "100",
        "AGENT_DISK_LIMIT": "2GiB",
    }.items():
        env.setenv(name, value)
    settings = load()
    assert settings.app_env is Environment.TEST
    assert settings.anthropic_base_url == LOCAL_URL
    assert settings.log_level is LogLevel.DEBUG
    assert (settings.port, settings.grpc_port, settings.max_concurrent_executions) == (0, 65535, 7)
    assert settings.project_root == Path("/srv/projects")
    assert not settings.backup_enabled and settings.backup_root == Path("/srv/backups")
    assert (settings.backup_hour, settings.backup_keep) == (23, 1)
    assert (settings.agent_memory_limit, settings.agent_cpu_limit) == (512 * 1024**2, 60)
    assert (settings.agent_process_limit, settings.agent_disk_limit) == (100, 2 * 1024**3)
    for secret, plain in (
        (settings.anthropic_api_key, VENDOR_KEY),
        (settings.encryption_key, ENCRYPTION_KEY),
        (settings.admin_api_key, ADMIN_KEY),
    ):
        assert secret is not None and secret.get_secret_value() == plain


def test_settings_are_read_from_a_dotenv_file_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"ANTHROPIC_API_KEY={VENDOR_KEY}\nPORT=4000\nUNKNOWN=ignored\n")
    assert load().port == 4000


def test_the_environment_wins_over_the_file_and_overrides_win_over_both(
    env: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("PORT=4000\n")
    env.setenv("PORT", "4001")
    assert load().port == 4001
    assert load(port=4002).port == 4002


def test_an_empty_variable_is_one_that_is_not_set(env: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "ENCRYPTION_KEY", "ADMIN_API_KEY", "APP_ENV"):
        env.setenv(name, "")
    assert load() == Settings(_env_file=None, anthropic_api_key=SecretStr(VENDOR_KEY))


def test_every_fault_is_told_in_one_pass_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty = {
        "APP_ENV": "staging",
        "ANTHROPIC_BASE_URL": "ftp://example.com",
        "ANTHROPIC_API_KEY": "no-vendor-key",
        "ENCRYPTION_KEY": "abc",
        "ADMIN_API_KEY": "short",
        "LOG_LEVEL": "loud",
        "PORT": "http",
        "GRPC_PORT": "65536",
        "MAX_CONCURRENT_EXECUTIONS": "0",
        "MAX_QUEUED_EXECUTIONS": "-1",
        "STOP_GRACE_SECONDS": "-1",
    }
    for name, value in faulty.items():
        monkeypatch.setenv(name, value)
    told = faults()
    assert sorted(line.partition(":")[0] for line in told) == sorted(faulty)
    assert all("\n" not in line for line in told)


def test_origins_of_web_pages_are_a_list(env: pytest.MonkeyPatch) -> None:
    assert load().cors_origins == ()
    env.setenv("CORS_ORIGINS", "https://app.example.com, http://localhost:5173,http://[::1]:8080")
    assert load().cors_origins == ("https://app.example.com", "http://localhost:5173", "http://[::1]:8080")


@pytest.mark.parametrize(
    "value",
    [
        "*",
        "null",
        "app.example.com",
        "https://*.example.com",
        "https://app.example.com/",
        "https://app.example.com/path",
        "https://App.example.com",
        "https://app.example.com:443",
        "http://app.example.com:80",
        "https://user@app.example.com",
        "ftp://app.example.com",
        "https://app.example.com,",
        "https://a.example,,https://b.example",
    ],
)
def test_what_no_browser_sends_is_no_origin(env: pytest.MonkeyPatch, value: str) -> None:
    env.setenv("CORS_ORIGINS", value)
    (fault,) = faults()
    assert fault.startswith("CORS_ORIGINS: must be origins")


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "ENCRYPTION_KEY", "ADMIN_API_KEY"])
def test_a_fault_does_not_show_the_value(env: pytest.MonkeyPatch, name: str) -> None:
    env.setenv(name, "hunter2-hidden"[:14])
    told = faults()
    assert [line.partition(":")[0] for line in told] == [name]
    assert "hunter2" not in told[0]


def test_no_secret_is_in_any_print(env: pytest.MonkeyPatch) -> None:
    env.setenv("ENCRYPTION_KEY", ENCRYPTION_KEY)
    env.setenv("ADMIN_API_KEY", ADMIN_KEY)
    settings = load()
    for shown in (repr(settings), str(settings), f"{settings}", f"{settings.model_dump()}", settings.model_dump_json()):
        for secret in (VENDOR_KEY, ENCRYPTION_KEY, ADMIN_KEY):
            assert secret not in shown
    assert "**********" in repr(settings)


def test_settings_cannot_be_changed(env: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError):
        load().port = 1  # type: ignore[misc]


# Environments.


@pytest.mark.parametrize("value", ["production", "PRODUCTION", "Production"])
@pytest.mark.parametrize("name", ["APP_ENV", "NODE_ENV"])
def test_production_insists_on_its_keys(env: pytest.MonkeyPatch, name: str, value: str) -> None:
    env.setenv(name, value)
    told = faults()
    assert [line.partition(":")[0] for line in told] == ["ENCRYPTION_KEY", "ADMIN_API_KEY"]
    assert all("required in production" in line for line in told)
    env.setenv("ENCRYPTION_KEY", ENCRYPTION_KEY)
    env.setenv("ADMIN_API_KEY", ADMIN_KEY)
    assert load().app_env is Environment.PRODUCTION


def test_app_env_wins_over_node_env(env: pytest.MonkeyPatch) -> None:
    env.setenv("NODE_ENV", "production")
    env.setenv("APP_ENV", "test")
    assert load().app_env is Environment.TEST


def test_log_level_may_be_in_upper_case(env: pytest.MonkeyPatch) -> None:
    env.setenv("LOG_LEVEL", "WARN")
    assert load().log_level is LogLevel.WARN


# The vendor.


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:4010", "http://127.1.2.3", "http://localhost:80", "http://LOCALHOST", "http://[::1]:4010"],
)
def test_a_model_on_loopback_needs_no_vendor_key(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
    assert load().anthropic_api_key is None


@pytest.mark.parametrize(
    "url",
    [
        "https://api.anthropic.com",
        "http://10.0.0.1",
        "http://localhost.example.com",
        "http://128.0.0.1",
        "http://[::2]",
    ],
)
def test_any_other_model_needs_one(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
    [fault] = faults()
    assert fault.startswith("ANTHROPIC_API_KEY: is required unless ANTHROPIC_BASE_URL is on loopback")
    assert not is_loopback(url)


def test_without_anything_the_one_fault_says_how_to_go_on() -> None:
    [fault] = faults()
    assert "--local-model" in fault


@pytest.mark.parametrize(
    "url",
    [
        "api.anthropic.com",
        "ftp://127.0.0.1",
        "http://",
        "http://host?x=1",
        "http://host/#x",
        "http://user:hunter2@127.0.0.1",
        "http://:hunter2@127.0.0.1",
        "http://[::1",
        "http://host:0",
        "http://host:http",
        "http://host:70000",
    ],
)
def test_a_faulty_url_is_refused(env: pytest.MonkeyPatch, url: str) -> None:
    env.setenv("ANTHROPIC_BASE_URL", url)
    [fault] = faults()
    assert fault.startswith("ANTHROPIC_BASE_URL: ")
    assert "hunter2" not in fault


def test_a_storage_that_is_none_of_the_servers_is_refused(env: pytest.MonkeyPatch) -> None:
    env.setenv("STORAGE", "nats")
    assert faults() == ["STORAGE: must be 'filesystem'"]
    env.setenv("STORAGE", "Filesystem")
    assert load().storage is StorageKind.FILESYSTEM


@pytest.mark.parametrize("key", ["a" * 63, "a" * 65, "g" * 64, "a" * 63 + "\n"])
def test_an_encryption_key_is_64_hex_digits(env: pytest.MonkeyPatch, key: str) -> None:
    env.setenv("ENCRYPTION_KEY", key)
    [fault] = faults()
    assert fault.startswith("ENCRYPTION_KEY: must be 64 hex digits")


@pytest.mark.parametrize(("length", "valid"), [(15, False), (16, True)])
def test_an_admin_key_has_16_characters_or_more(env: pytest.MonkeyPatch, length: int, valid: bool) -> None:
    env.setenv("ADMIN_API_KEY", "k" * length)
    if valid:
        assert load().admin_api_key is not None
    else:
        assert faults() == ["ADMIN_API_KEY: must have 16 characters or more"]


# The generated key.


def key_of(settings: Settings) -> str:
    assert settings.encryption_key is not None
    return settings.encryption_key.get_secret_value()


def test_a_missing_key_is_generated_and_found_again(
    env: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings, generated = with_encryption_key(load())
    file = tmp_path / ".env"
    assert generated
    assert len(bytes.fromhex(key_of(settings))) == 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == f"ENCRYPTION_KEY={key_of(settings)}\n"
    assert key_of(load()) == key_of(settings)
    assert with_encryption_key(load()) == (load(), False)
    shown = capfd.readouterr()
    assert key_of(settings) not in f"{shown.out}{shown.err}{settings!r}{settings}"


@pytest.mark.parametrize("text", ["PORT=4000", "PORT=4000\n", "# ENCRYPTION_KEY=\nENCRYPTION_KEY=\nPORT=4000\n"])
def test_a_generated_key_is_appended(env: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    file = tmp_path / ".env"
    file.write_text(text)
    file.chmod(0o644)
    settings, _ = with_encryption_key(load())
    assert file.read_text() == f"{text.rstrip()}\nENCRYPTION_KEY={key_of(settings)}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (key_of(load()), load().port) == (key_of(settings), 4000)


def test_two_generated_keys_differ(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys = {key_of(with_encryption_key(load(), tmp_path / name)[0]) for name in ("a", "b")}
    assert len(keys) == 2


def test_a_key_that_is_there_is_left_alone(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env.setenv("ENCRYPTION_KEY", ENCRYPTION_KEY)
    assert with_encryption_key(load()) == (load(), False)
    assert not (tmp_path / ".env").exists()


def test_every_setting_is_described() -> None:
    described = {name: field.description for name, field in Settings.model_fields.items()}
    assert all(text and text.endswith(".") for text in described.values()), json.dumps(described)


def test_retired_encryption_keys_are_a_list_with_commas(env: pytest.MonkeyPatch) -> None:
    assert split_keys(load().encryption_keys_retired) == []
    env.setenv("ENCRYPTION_KEYS_RETIRED", f"{ENCRYPTION_KEY}, {'cd' * 32}")
    settings = load()
    assert split_keys(settings.encryption_keys_retired) == [ENCRYPTION_KEY, "cd" * 32]
    assert ENCRYPTION_KEY not in repr(settings) + settings.model_dump_json()


@pytest.mark.parametrize("keys", ["abc", f"{ENCRYPTION_KEY},", f"{ENCRYPTION_KEY} {ENCRYPTION_KEY}"])
def test_each_retired_key_is_64_hex_digits(env: pytest.MonkeyPatch, keys: str) -> None:
    env.setenv("ENCRYPTION_KEYS_RETIRED", keys)
    (fault,) = faults()
    assert fault.startswith("ENCRYPTION_KEYS_RETIRED: must be keys of 64 hex digits")
    assert ENCRYPTION_KEY not in fault


def test_tls_takes_both_files_or_none(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load().certificate is None
    authority = Authority()
    files = authority.issue_to(tmp_path)
    env.setenv("TLS_CERTIFICATE_FILE", "certificate.pem")
    both_or_none = "TLS_PRIVATE_KEY_FILE: goes with TLS_CERTIFICATE_FILE; set both, or none for an API without TLS"
    assert faults() == [both_or_none]
    env.setenv("TLS_PRIVATE_KEY_FILE", "key.pem")
    assert load().certificate == files
    files.private_key.write_bytes(authority.issue()[1])
    (fault,) = faults()
    assert fault.startswith(f"TLS_PRIVATE_KEY_FILE: {files.certificate} and {files.private_key} are no certificate")
    env.delenv("TLS_CERTIFICATE_FILE")
    assert faults() == [both_or_none]


def test_upstreams_are_hosts_and_ports(env: pytest.MonkeyPatch) -> None:
    env.setenv("GRPC_PORT", "4000")
    assert load().upstream_addresses == [("127.0.0.1", 4000)]
    env.setenv("GRPC_SOCKET", "server.sock")
    assert load().upstream_addresses == [(f"unix:{Path.cwd() / 'server.sock'}", 4000)]
    env.setenv("UPSTREAMS", "one:1, 127.0.0.1:65535,[::1]:3,unix:/run/one.sock")
    assert load().upstream_addresses == [("one", 1), ("127.0.0.1", 65535), ("::1", 3), ("unix:/run/one.sock", 0)]
    for faulty in ("one", "one:", ":1", "one:0", "one:65536", "one:x", "one:1,two"):
        env.setenv("UPSTREAMS", faulty)
        assert faults() == ["UPSTREAMS: must be host:port or unix:/path, separated by commas"]


@pytest.mark.parametrize(
    ("variable", "value", "fault"),
    [
        ("HOST", "localhost", "HOST: must be an IP address, such as 127.0.0.1, or 0.0.0.0 for all of this machine's"),
        ("HOST", "[::1]", "HOST: must be an IP address, such as 127.0.0.1, or 0.0.0.0 for all of this machine's"),
        ("GRPC_HOST", "127.0.0.1:1", "GRPC_HOST: must be an IP address or a host's name, without a port"),
        (
            "GRPC_SOCKET",
            "/run/" + "s" * 103,
            "GRPC_SOCKET: has more than 107 bytes, as no path of a socket may; choose a shorter one",
        ),
        ("METRICS_HOST", "http://host", "METRICS_HOST: must be an IP address or a host's name, without a port"),
    ],
)
def test_what_is_listened_on_can_be(env: pytest.MonkeyPatch, variable: str, value: str, fault: str) -> None:
    env.setenv(variable, value)
    assert faults() == [fault]


def test_servers_may_have_a_name_and_any_kind_of_address(env: pytest.MonkeyPatch) -> None:
    for name, value in {"HOST": "::", "GRPC_HOST": "server", "METRICS_HOST": "::1"}.items():
        env.setenv(name, value)
    settings = load()
    assert (settings.host, settings.grpc_host, settings.metrics_host) == ("::", "server", "::1")


def test_what_is_announced_is_where_it_answers() -> None:
    hosts = ["0.0.0.0", "::", "::1", "192.0.2.7", "127.0.0.1", "server"]
    assert [*map(reached_at, hosts)] == ["127.0.0.1", "[::1]", "[::1]", "192.0.2.7", "127.0.0.1", "server"]
