"""The container files are parsed dry: no image can be built where there is no Docker daemon and no Jetson."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "docker"
FILES = ("host.Dockerfile", "jetson.Dockerfile")


def instructions(name: str) -> list[tuple[str, str]]:
    """Return (instruction, arguments) of a Dockerfile, with lines that end in a backslash joined."""
    lines = [line for line in (FOLDER / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def arguments(name: str) -> dict[str, str]:
    """Return the build arguments that a Dockerfile declares, and their defaults."""
    declared = [value.partition("=") for word, value in instructions(name) if word == "ARG"]
    return {key: default for key, _, default in declared}


@pytest.fixture(scope="module")
def service():
    """Return the compose file's one service."""
    (found,) = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"].values()
    return found


@pytest.mark.parametrize("name", FILES)
def test_hadolint_finds_nothing(name):
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not on PATH")
    done = subprocess.run(["hadolint", FOLDER / name], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)


@pytest.mark.parametrize("name", FILES)
def test_every_instruction_is_known_and_used_with_care(name):
    words = [word for word, _ in instructions(name)]
    assert set(words) <= {"ARG", "FROM", "RUN", "COPY", "ENV", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}
    assert (words.count("ENTRYPOINT"), words.count("CMD")) == (1, 1)
    for word, value in instructions(name):
        if word == "WORKDIR":
            assert value.startswith("/")
        if word in ("ENTRYPOINT", "CMD"):
            assert re.fullmatch(r'\["[^"]+"(, "[^"]+")*\]', value)
        if word == "RUN":
            assert "sudo" not in value
            assert ("apt-get install" in value) <= (
                "--no-install-recommends" in value and "rm -rf /var/lib/apt" in value
            )
            assert ("pip install" in value) <= ("--no-cache-dir" in value)


@pytest.mark.parametrize("name", FILES)
def test_no_image_runs_as_root(name):
    users = [value for word, value in instructions(name) if word == "USER"]
    made = " ".join(value for word, value in instructions(name) if word == "RUN")
    assert users in (["heartvit"], ["${UID}"])
    assert "useradd" in made
    assert arguments(name)["UID"] == "1000"
    words = [word for word, _ in instructions(name)]
    assert "RUN" not in words[words.index("USER") :]


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_is_copied_is_there(name):
    sources = [part for word, value in instructions(name) if word == "COPY" for part in value.split()[:-1]]
    assert {"pyproject.toml", "heartvit_edge"} <= set(sources)
    assert [source for source in sources if not (FOLDER.parent / source).exists()] == []


@pytest.mark.parametrize("name", FILES)
def test_every_variable_is_declared_in_its_stage(name):
    known: set[str] = set()
    for word, value in instructions(name):
        used = set(re.findall(r"\$\{?([A-Z_]+)", value))
        assert used <= known | {"PATH"}, f"{name}: {word} {value}"
        if word == "FROM":
            known = {"JETPACK"} if "JETPACK" in known else set()
        elif word in ("ARG", "ENV"):
            known |= set(re.findall(r"(?:^|\s)([A-Z_]+)(?:=|$)", value))


def test_images_have_a_tag_that_stays_and_the_jetpack_chooses_one_of_them():
    bases = {}
    for _, value in (pair for pair in instructions("jetson.Dockerfile") if pair[0] == "FROM"):
        image, _, stage = value.partition(" AS ")
        bases[stage] = image
    assert bases.pop("") == "jetpack-${JETPACK}"
    assert bases.keys() == {"jetpack-6.2", "jetpack-7.2"}
    assert bases["jetpack-6.2"].endswith("l4t-jetpack:r36.4.0")
    assert f"jetpack-{arguments('jetson.Dockerfile')['JETPACK']}" in bases
    (host,) = (value for word, value in instructions("host.Dockerfile") if word == "FROM")
    for image in (*bases.values(), host):
        assert re.fullmatch(r"\S+:[\w.-]+", image)
        assert not image.endswith(":latest")


def test_the_extras_that_are_installed_exist(repository):
    extras = set(re.findall(r"^([a-z]+) = \[$|^(pycuda) =", (repository / "pyproject.toml").read_text(), re.MULTILINE))
    known = {name for pair in extras for name in pair}
    assert {"jetson", "tensorrt", arguments("host.Dockerfile")["EXTRAS"]} <= known
    assert any("'.[jetson]'" in value for word, value in instructions("jetson.Dockerfile") if word == "RUN")


def test_compose_passes_what_the_dockerfile_takes(service):
    assert (FOLDER / service["build"]["context"]).resolve() == FOLDER.parent
    assert (FOLDER.parent / service["build"]["dockerfile"]).is_file()
    declared = arguments("jetson.Dockerfile")
    for name, value in service["build"]["args"].items():
        assert re.fullmatch(rf"\$\{{{name}:-{re.escape(declared[name])}\}}", value)
    assert service["runtime"] == "nvidia"


def test_compose_mounts_the_jtop_socket_and_lets_its_group_read_it(service):
    sockets = [mount for mount in service["volumes"] if isinstance(mount, dict)]
    (socket,) = (mount for mount in sockets if mount["target"] == "/run/jtop.sock")
    assert (socket["type"], socket["source"]) == ("bind", "/run/jtop.sock")
    assert socket["bind"] == {"create_host_path": False}
    assert [group.partition(":")[0] for group in service["group_add"]] == ["${JTOP_GID"]


def test_compose_shows_what_the_fingerprint_reads_and_nothing_as_writable(service):
    mounts = [mount.rsplit(":", 2) for mount in service["volumes"] if isinstance(mount, str) and mount.endswith(":ro")]
    assert {inside for _, inside, _ in mounts} == {"/etc/nv_tegra_release", "/etc/nvpmodel.conf", "/var/lib/nvpmodel"}
    assert all(outside == inside for outside, inside, _ in mounts)
    assert "systempaths=unconfined" in service["security_opt"]
