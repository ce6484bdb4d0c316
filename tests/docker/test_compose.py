"""The compose files say what the images, the server and the gateway know."""

import re
import subprocess

import pytest

import compose_files
import image_replay
from harness import places

OVERLAYS = [
    (),
    ("compose.models.yaml",),
    ("compose.cuda.yaml",),
    ("compose.tls.yaml",),
    ("compose.models.yaml", "compose.cuda.yaml", "compose.tls.yaml"),
]
GIVEN = {"MODEL_REPOSITORY": "/srv/models", "TLS_FOLDER": "/srv/tls"}


@pytest.fixture(params=OVERLAYS, ids=lambda files: "+".join(files) or "demo")
def services(request):
    """The services of a combination of files."""
    return compose_files.load("compose.yaml", *request.param, **GIVEN)["services"]


def test_what_is_built_is_in_the_dockerfile(services):
    arguments, stages = image_replay.parse()
    for service in services.values():
        build = service["build"]
        assert (image_replay.DOCKER / build["context"]).resolve() == places.ROOT
        assert places.ROOT / build["dockerfile"] == image_replay.DOCKERFILE
        assert build["target"] in stages
        assert set(build.get("args", {})) <= set(arguments)


def test_what_is_published_is_exposed(services):
    _, stages = image_replay.parse()
    for service in services.values():
        name, exposed = service["build"]["target"], ""
        while name in stages:
            exposed += " ".join(value for keyword, value in stages[name].instructions if keyword == "EXPOSE")
            name = stages[name].base
        published = [port.rsplit(":", 1)[1] for port in service["ports"]]
        assert sorted(published) == sorted(exposed.split())


def test_ports_follow_the_variables():
    chosen = {"HTTP_PORT": "1", "GRPC_PORT": "2", "METRICS_PORT": "3", "WEB_PORT": "4"}
    services = compose_files.load("compose.yaml", **chosen)["services"]
    published = [port for service in services.values() for port in service["ports"]]
    assert published == ["127.0.0.1:1:8000", "127.0.0.1:2:8001", "127.0.0.1:3:8002", "4:7860"]
    services = compose_files.load("compose.yaml")["services"]
    defaults = [port for service in services.values() for port in service["ports"]]
    assert [port.rsplit(":", 2)[-2] for port in defaults] == ["8000", "8001", "8002", "7860"]


def test_the_gateway_knows_its_variables(services):
    gateway = places.CLI.with_name("textgen-gateway")
    shown = subprocess.run([str(gateway), "--help"], check=True, capture_output=True, text=True).stdout
    known = set(re.findall(r"\[env: (\w+)=", shown))
    assert "TEXTGEN_CONFIG" in known
    assert set(services["gateway"]["environment"]) <= known


def test_the_server_knows_its_options(services):
    shown = subprocess.run([str(places.SERVER), "--help"], capture_output=True, text=True)
    options = {word.split("=")[0] for word in services["backend"].get("command", []) if word.startswith("--")}
    assert all(re.search(rf"{option}\b", shown.stdout + shown.stderr) for option in options), options


def test_services_are_confined_and_come_back(services):
    for service in services.values():
        assert service["read_only"] and service["restart"] == "unless-stopped"
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
        for volume in service.get("volumes", []):
            # Only the log is written; a folder that is not there is an error, not an empty folder of root's.
            assert volume == "logs:/var/log/textgen" or (volume["read_only"] and not volume["bind"]["create_host_path"])


def test_a_folder_that_must_be_given_is_asked_for():
    for file in ("compose.models.yaml", "compose.tls.yaml"):
        with pytest.raises(AssertionError, match="absolute path"):
            compose_files.load("compose.yaml", file)


def test_every_variable_is_documented():
    text = (image_replay.DOCKER / "README.md").read_text(encoding="utf-8")
    missing = [name for name in compose_files.variables() if f"`{name}`" not in text]
    assert not missing, f"docker/README.md does not say what these are: {missing}"
