"""The images hold what they serve with: every step of docker/Dockerfile is run, and what it lays out is started, as
docker/compose.yaml says it is. No container engine is needed."""

import os
import re
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, List

import pytest
import urllib3

import compose_files
import image_replay
from harness import places
from harness.server import TritonServer, eventually, free_ports

TRITON_PORTS = {"8000": "http", "8001": "grpc", "8002": "metrics"}


def test_every_source_of_a_copy_is_in_the_context():
    _, stages = image_replay.parse()
    copies = [value for stage in stages.values() for keyword, value in stage.instructions if keyword == "COPY"]
    sources = {source for copy in copies for source in image_replay.context_sources(copy)}
    assert "Cargo.toml" in sources
    for source in sources:
        assert image_replay.context_files(source), f"{source} is not there, or .dockerignore shuts it out"


def test_the_context_is_small():
    """What is built, converted or downloaded stays outside."""
    model = "model_repository/hunyuan-mt/1/weights.bin"
    for path in ("target/release/textgen", ".venv/pyvenv.cfg", ".git/HEAD", model):
        assert image_replay.ignored(path)


def test_all_that_cargo_reads_is_copied(images):
    """Cargo is run in the project's folder here; in the image it has only what is copied."""
    build = images.root("build") / "textgen"
    for product in ("libtriton_textgen.d", "textgen.d", "textgen-gateway.d"):
        text = (image_replay.TARGET / "release" / product).read_text(encoding="utf-8").replace("\\ ", "\0")
        read = [Path(word.replace("\0", " ")) for word in text.split(": ", 1)[1].split()]
        ours = [file.relative_to(places.ROOT) for file in read if file.is_relative_to(places.ROOT)]
        ours = [file for file in ours if not (places.ROOT / file).is_relative_to(image_replay.TARGET)]
        assert ours, f"{product} names no file of the project"
        missing = [str(file) for file in ours if (places.ROOT / file).is_file() and not (build / file).is_file()]
        assert not missing, f"{product} is made from files that are not copied: {missing}"
    metadata = ["cargo", "metadata", "--locked", "--offline", "--format-version=1"]
    metadata.append("--filter-platform=x86_64-unknown-linux-gnu")
    subprocess.run(metadata, cwd=build, env=images.environment, check=True, stdout=subprocess.DEVNULL)


def test_every_step_is_run(images):
    for target in ("demo", "gateway"):
        images.root(target)
    steps = {f"docker/steps/{file.name}" for file in (image_replay.DOCKER / "steps").iterdir()}
    assert images.ran == steps
    assert all(os.access(places.ROOT / step, os.X_OK) for step in steps)


def test_the_backend_folder_is_the_one_that_make_builds(images):
    folder = images.root("backend") / "opt/tritonserver/backends/textgen"
    assert {file.name for file in folder.iterdir()} == {file.name for file in places.BACKEND.iterdir()}
    assert not any(file.is_symlink() for file in folder.iterdir())


def test_the_cuda_image_has_the_providers_beside_the_runtime(images, cuda_images):
    cpu = images.root("backend") / "opt/tritonserver/backends/textgen"
    cuda = cuda_images.root("backend") / "opt/tritonserver/backends/textgen"
    more = {"libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"}
    assert {file.name for file in cuda.iterdir()} == {file.name for file in cpu.iterdir()} | more


@pytest.mark.parametrize("target, program", [("backend", "textgen"), ("gateway", "textgen-gateway")])
def test_the_programs_need_no_newer_glibc_than_the_plugin(images, target, program):
    file = images.root(target) / "usr/local/bin" / program
    symbols = subprocess.run(["objdump", "-T", str(file)], check=True, capture_output=True, text=True).stdout
    versions = {tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([\d.]+)", symbols)}
    assert versions and max(versions) <= (2, 34)


def test_no_image_runs_as_root(images):
    for target in ("backend", "demo", "gateway"):
        images.root(target)
        user, group = map(int, images.settings[target]["USER"].split(":"))
        assert user and group


def moved(words: List[str], root: Path) -> List[str]:
    """A command or a variable of a container, its paths moved to the folder that stands for `/`."""
    return [re.sub(r"(^|=)/", rf"\1{root}/", word) for word in words]


def health(images, service: Dict, target: str, ports: Dict[str, str], variables: Dict[str, str]) -> bool:
    """Whether a service's health check passes: the one of the compose file, else the image's."""
    command = service["healthcheck"]["test"][1:] if "healthcheck" in service else images.command(target, "HEALTHCHECK")
    path = f"{images.root(target)}/usr/local/bin:/usr/bin:/bin"
    command = [ports.get(word, word) for word in command]
    return subprocess.run(command, env={"PATH": path, **variables}, capture_output=True).returncode == 0


@contextmanager
def gateway(images, service: Dict, triton_port: int, log: Path, **more: str) -> Iterator[Dict[str, str]]:
    """The gateway out of its image, with the service's environment; yields what it was started with."""
    root = images.root(service["build"]["target"])
    names, values = zip(*service["environment"].items())
    values = [value.replace("backend:8001", f"127.0.0.1:{triton_port}") for value in values]
    variables = dict(zip(names, moved(values, root)))
    variables.update(images.variables["gateway"], WEB_PORT=str(free_ports(1)[0]), **more)
    path = f"{root}/usr/local/bin:/usr/bin:/bin"
    command = images.command("gateway", "ENTRYPOINT") + service.get("command", [])
    with open(log, "wb") as out:
        process = subprocess.Popen(command, env={"PATH": path, **variables}, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield variables
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0, log.read_text(encoding="utf-8")
    finally:
        process.kill()
        process.wait()


def test_the_demo_serves(images, tmp_path):
    services = compose_files.load("compose.yaml")["services"]
    backend, door = services["backend"], services["gateway"]
    root = images.root(backend["build"]["target"])
    program, *arguments = moved(images.command("demo", "CMD"), root)
    assert program == "tritonserver" and "command" not in backend
    repository = next(word for word in arguments if word.startswith("--model-repository=")).split("=", 1)[1]
    # The folder where Triton's image has its backends.
    arguments.append(f"--backend-directory={root}/opt/tritonserver/backends")
    with TritonServer(Path(repository), tmp_path / "triton.log", tuple(arguments)) as triton:
        maps = Path(f"/proc/{triton.process.pid}/maps").read_text(encoding="utf-8")
        for library in ("libtriton_textgen.so", "libonnxruntime.so"):
            assert f"{root}/opt/tritonserver/backends/textgen/{library}" in maps
        ports = {port: str(getattr(triton, f"{name}_port")) for port, name in TRITON_PORTS.items()}
        eventually(lambda: health(images, backend, "demo", ports, {}), 60)
        with gateway(images, door, triton.grpc_port, tmp_path / "gateway.log") as variables:
            ports = {images.variables["gateway"]["WEB_PORT"]: variables["WEB_PORT"]}
            eventually(lambda: health(images, door, "gateway", ports, variables), 60)
            with urllib3.HTTPConnectionPool("127.0.0.1", int(variables["WEB_PORT"]), retries=False) as http:
                translation = http.request("POST", "/translate", json={"text": "The cat sleeps.", "tgt_lang": "pt"})
                assert translation.status == 200 and "gato" in translation.json()["translated_text"]
                answer = http.request("POST", "/augment", json={"text": "The train was late because of the snow."})
                variants = answer.json()
                assert answer.status == 200 and variants["augmented_texts"], variants
                assert len(variants["augmented_texts"]) == 3 or variants["exhausted"]
                models = http.request("GET", "/v1/models").json()["data"]
                assert [model["id"] for model in models] == ["chat"]
    logs = Path(variables["TEXTGEN_LOG_DIR"])
    assert any(file.stat().st_size for file in logs.iterdir()), "the volume of the logs is empty"
    assert str(logs) == f"{images.root('gateway')}{door['volumes'][0].split(':')[1]}"


def test_health_is_what_the_service_says(images, tmp_path):
    """The gateway in front of `mt5-augment` and `hunyuan-mt`, with no Triton there: live, as its image asks, and not
    ready, as the compose file asks."""
    services = compose_files.load("compose.yaml", "compose.models.yaml", MODEL_REPOSITORY="/models")["services"]
    door = services["gateway"]
    [volume] = [each for each in door["volumes"] if isinstance(each, dict)]
    config = (image_replay.DOCKER / volume["source"]).resolve()
    assert config.is_file() and door["environment"]["TEXTGEN_CONFIG"] == volume["target"]
    port_of_nobody = free_ports(1)[0]
    given = {"TEXTGEN_LOG_DIR": str(tmp_path / "logs"), "TEXTGEN_CONFIG": str(config)}
    (tmp_path / "logs").mkdir()
    with gateway(images, door, port_of_nobody, tmp_path / "gateway.log", **given) as variables:
        ports = {images.variables["gateway"]["WEB_PORT"]: variables["WEB_PORT"]}
        as_the_image = {key: value for key, value in door.items() if key != "healthcheck"}
        eventually(lambda: health(images, as_the_image, "gateway", ports, variables), 30)
        assert not health(images, door, "gateway", ports, variables)
    assert not health(images, as_the_image, "gateway", ports, variables), "nobody listens any more"
