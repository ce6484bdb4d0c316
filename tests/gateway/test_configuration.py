"""What an operator says: files, flags, environment; what cannot be meant ends the start with one line."""

import json
import subprocess

import pytest

from harness import places
from harness.gateway import BINARY
from harness.server import eventually


def run(*arguments, **environment):
    """Exit code and standard error of a gateway that must not start."""
    done = subprocess.run(
        [str(BINARY), *arguments], capture_output=True, text=True, timeout=20, env={"PATH": "/usr/bin:/bin", **environment}
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "file, key",
    [
        ("max_que = 3", "max_que"),
        ("max_queue = -1", "max_queue"),
        ('max_queue = "3"', "max_queue"),
        ("max_active = 0", "max_active"),
        ("max_sockets = 9000000000000000000", "max_sockets"),
        ("request_timeout_s = 0", "request_timeout_s"),
        ("request_timeout_s = 9000000000000000000", "request_timeout_s"),
        ("socket_idle_s = 9000000000000000000", "socket_idle_s"),
        ("cache_ttl_s = 9000000000000000000", "cache_ttl_s"),
        ("drain_s = 9000000000000000000", "drain_s"),
        ("port = 70000", "port"),
        ('triton = "no port here"', "triton"),
        ('triton = "http://127.0.0.1:8001"', "triton"),
        ('triton = "127.0.0.1"', "triton"),
        ('triton = ""', "triton"),
        ('log_level = "loud"', "log_level"),
        ('log_format = "xml"', "log_format"),
        ('log_dir = "/proc/nowhere"', "log_dir"),
        ('cors_origins = ["page.example"]', "cors_origins"),
        ('tls_cert = "a.pem"', "tls_key"),
        ('tls_cert = "nothing.pem"\ntls_key = "nothing.pem"', "tls_cert"),
        ('jwt_algorithm = "none"', "jwt_algorithm"),
        ('jwt_audience = "a"', "jwt_audience"),
        ('jwt_key_file = "nothing"', "jwt_key_file"),
        ('jwt_key_file = "SHORT"', "jwt_key_file"),
        ('jwt_key_file = "PEM"', "jwt_key_file"),
        ('jwt_algorithm = "RS256"\njwt_key_file = "SHORT"', "jwt_key_file"),
        ('jwt_jwks_file = "SHORT"', "jwt_jwks_file"),
        ('jwt_jwks_file = "EMPTY"', "jwt_jwks_file"),
        ("[augment]\n", "model"),
        ('[augment]\nmodel = "a"\nprompt = "{{ text"', "prompt"),
        ('[augment]\nmodel = "a"\nprompt = "no text"', "prompt"),
        ('[augment]\nmodel = "a"\nmode = 1', "mode"),
        ('[augment.tasks.rewrite]\nprompt = "{{ text }}"\n[augment]\nmodel = "a"', "rewrite"),
        ('[augment]\nmodel = "a"\n[augment.tasks.t]\nprompt = "{{ text }}"\nasks = ["money"]', "asks"),
        ("[translate]\n", "translate"),
        ('[translate]\npairs = [{ src = "xx-nobody", tgt = "pt", model = "a" }]', "pairs"),
        ('[translate]\nmodel = "a"\nlanguages = "en, xx-nobody"', "languages"),
        ('[translate]\nmodel = "a"\nsegments = "word"', "segments"),
        ('[translate]\nmodel = "a"\npairs = [{ src = "en", tgt = "pt", model = "a" }]', "pairs"),
        ('[chat]\nmodels = "a"', "models"),
        ("[money]\n", "money"),
        ("port = 1\nport = 2", "port"),
        ("port = ", "line 1"),
    ],
)
def test_a_file_that_cannot_be_meant(tmp_path, file, key):
    for name, content in {
        "SHORT": "short",
        "PEM": "-----BEGIN PUBLIC KEY-----\n" + "a" * 64,
        "EMPTY": '{"keys": []}',
    }.items():
        (tmp_path / name).write_text(content)
        file = file.replace(f'"{name}"', json.dumps(str(tmp_path / name)))
    (tmp_path / "gateway.toml").write_text(file, encoding="utf-8")
    # Whatever else holds, it cannot listen here.
    code, message = run("--config", str(tmp_path / "gateway.toml"), TEXTGEN_HOST="192.0.2.1")
    assert code == 1, message
    lines = message.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), message
    assert key in lines[0]


@pytest.mark.parametrize(
    "arguments, environment, key",
    [
        (["--max-queue", "x"], {}, "--max-queue"),
        (["--max-que", "3"], {}, "--max-que"),
        (["--jwt-algorithm", "none"], {}, "--jwt-algorithm"),
        (["stray"], {}, "stray"),
        ([], {"WEB_PORT": "x"}, "--port"),
        ([], {"TEXTGEN_MAX_ACTIVE": "-1"}, "--max-active"),
    ],
)
def test_a_flag_that_cannot_be_meant(arguments, environment, key):
    code, message = run(*arguments, **environment)
    assert code == 2 and message.startswith("error: ") and key in message.splitlines()[0]


def test_a_host_that_is_not_there():
    code, message = run("--host", "192.0.2.1")
    assert code == 1 and "192.0.2.1" in message and len(message.splitlines()) == 1


def test_a_file_that_is_not_there():
    code, message = run("--config", "/nowhere/gateway.toml")
    assert code == 1 and "/nowhere/gateway.toml" in message and len(message.splitlines()) == 1


def test_a_port_that_is_taken(demo):
    code, message = run("--host", "127.0.0.1", "--port", str(demo.port))
    assert code == 1 and str(demo.port) in message and "WEB_PORT" in message


def test_help_lists_every_key():
    readme = (places.ROOT / "crates/gateway/README.md").read_text(encoding="utf-8")
    keys = [line.split("`")[1] for line in readme.splitlines() if line.startswith("| `") and "`TEXTGEN_" in line]
    assert len(keys) > 30
    shown = subprocess.run([str(BINARY), "--help"], capture_output=True, text=True, check=True).stdout
    for key in ["port", "config", *keys]:
        assert f"--{key.replace('_', '-')} " in shown, key


@pytest.mark.parametrize("name", ["demo", "mt5-hunyuan"])
def test_the_projects_own_files_are_read(demo, name):
    """To their end: the port is looked at last."""
    file = places.ROOT / "crates/gateway/config" / f"{name}.toml"
    code, message = run("--config", str(file), "--host", "127.0.0.1", "--port", str(demo.port))
    assert code == 1 and "cannot listen" in message, message


def test_the_log_in_files(own_gateway, tmp_path):
    folder = tmp_path / "logs"
    with own_gateway("--log-dir", str(folder)) as gateway:
        gateway.post("/translate", {"text": "The cat sleeps.", "tgt_lang": "Klingon"})
        eventually(lambda: any("/translate" in file.read_text() for file in folder.iterdir()))
        assert gateway.log.read_text() == ""
    (file,) = folder.iterdir()
    assert file.name.startswith("textgen-gateway.") and file.suffix == ".log"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [line["message"] for line in (lines[0], lines[-1])] == ["listening", "stopped"]
    (refused,) = [line for line in lines if line["message"] == "request" and "/translate" in line["path"]]
    assert (refused["status"], refused["error_type"]) == (400, "invalid_argument")


def test_the_log_as_text(own_gateway):
    with own_gateway("--log-format", "text", "--log-level", "warn") as gateway:
        gateway.get("/health/live")
        assert "/health/live" not in gateway.log.read_text()
