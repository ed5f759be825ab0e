"""`akidb-mlx service`: its files, read by those who know them, and what it has launchd and systemd do."""

import os
import plistlib
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from akidb_mlx import EmbedderConfig
from akidb_mlx.cli import main, service_file
from akidb_mlx.cli.launchd import Launchd
from akidb_mlx.cli.service_file import Service, own_command
from akidb_mlx.cli.systemd import Systemd
from akidb_mlx.errors import BackendError, ConfigError
from support.checkpoints import REFERENCE
from support.serving import serving
from support.waiting import PATIENCE_S

MODEL = str(REFERENCE / "bert-mean")
ODD = Service(
    "odd-one",
    ("/a folder/akidb-mlx", "serve", "--model", 'a "b" c=/x y', "--query-prompt", "100 % of $HOME and ${X}: \\"),
    {"HF_HOME": "/a folder/hub", "AKIDB_MLX_QUERY_PROMPT": 'say "%h" $5'},
    70,
)
PLAIN = Service("akidb-mlx", ("/bin/true", "serve"), {}, 70)


def run(capsys, *arguments):
    try:
        code = main(["service", *arguments])
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder of its own, and a folder of programs, first on the PATH."""
    for name in [name for name in os.environ if name.startswith(("HF_", "AKIDB_", "XDG_", "SSL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def programs(home):
    """systemctl and launchctl that write down what they are told; a service runs once it was started."""
    script = f"""#!/bin/sh
    echo "$(basename $0) $*" >> {home}/told
    case "$*" in
      *fail*) echo "no such luck" >&2; exit 3 ;;
      *is-active*) test -e {home}/started ;;
      *print*) test -e {home}/started && echo "	state = running" ;;
      *restart*|*bootstrap*) touch {home}/started ;;
      *disable*|*bootout*) rm -f {home}/started ;;
    esac
    """
    for name in ("systemctl", "launchctl"):
        (home / "bin" / name).write_text(script)
        (home / "bin" / name).chmod(0o755)
    return lambda: (home / "told").read_text().splitlines() if (home / "told").exists() else []


@pytest.fixture(params=["linux", "darwin"])
def platform(request, monkeypatch):
    monkeypatch.setattr(sys, "platform", request.param)
    return request.param


def program(platform):
    return {"linux": Systemd, "darwin": Launchd}[platform]()


# ── the files ────────────────────────────────────────────────────────────────────────────────────────


def test_a_property_list_says_what_it_is_to_say(home):
    said = plistlib.loads(Launchd().content(ODD).encode())
    assert said["Label"] == "io.github.akidb-mlx.odd-one"
    assert said["ProgramArguments"] == list(ODD.command)
    assert said["EnvironmentVariables"] == ODD.environment
    assert (said["RunAtLoad"], said["KeepAlive"], said["ExitTimeOut"]) == (True, {"SuccessfulExit": False}, 70)
    assert said["StandardErrorPath"] == said["StandardOutPath"] == str(home / "Library" / "Logs" / "odd-one.log")
    assert Launchd().file("akidb-mlx") == home / "Library" / "LaunchAgents" / "io.github.akidb-mlx.plist"


@pytest.mark.skipif(shutil.which("plutil") is None, reason="needs macOS' plutil")
def test_macos_takes_the_property_list(tmp_path):
    file = tmp_path / "x.plist"
    file.write_text(Launchd().content(ODD))
    subprocess.run(["plutil", "-lint", str(file)], check=True)


def test_a_unit_says_what_it_is_to_say(home):
    lines = Systemd().content(ODD).splitlines()
    assert (
        'ExecStart="/a folder/akidb-mlx" serve --model "a \\"b\\" c=/x y" --query-prompt '
        '"100 %% of $$HOME and $${X}: \\\\"' in lines
    )
    assert 'Environment="HF_HOME=/a folder/hub"' in lines
    assert 'Environment="AKIDB_MLX_QUERY_PROMPT=say \\"%%h\\" $5"' in lines
    assert {"Restart=on-failure", "TimeoutStopSec=70", "WantedBy=default.target"} <= set(lines)
    assert Systemd().file("akidb-mlx") == home / ".config" / "systemd" / "user" / "akidb-mlx.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("service", [PLAIN, ODD], ids=["plain", "odd"])
def test_systemd_takes_the_unit(tmp_path, service):
    unit = tmp_path / "checked.service"
    content = Systemd().content(service)
    unit.write_text(content.replace('"/a folder/akidb-mlx"', "/bin/true"))  # the program must be there
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    verify = ["systemd-analyze", "verify", "--user", "--man=no", str(unit)]
    done = subprocess.run(verify, capture_output=True, text=True, env=environment)
    if "Failed to initialize manager" in done.stderr:
        pytest.skip("systemd-analyze cannot work here")
    assert (done.returncode, [line for line in done.stderr.splitlines() if "checked.service" in line]) == (0, [])
    unit.write_text(content.replace("Restart=on-failure", "Restart=sometimes").replace("Type=exec", "Typ=exec"))
    done = subprocess.run(verify, capture_output=True, text=True, env=environment)
    assert "sometimes" in done.stderr and "Typ" in done.stderr  # that it can fail


@pytest.mark.parametrize("kind", [Launchd, Systemd])
def test_a_file_is_read_again(home, kind):
    file = kind().file(ODD.name)
    file.parent.mkdir(parents=True)
    file.write_text(kind().content(ODD))
    assert kind().command(ODD.name) == list(ODD.command)
    file.write_text("nothing")
    with pytest.raises(ConfigError, match="install the service again"):
        kind().command(ODD.name)


# ── the command ──────────────────────────────────────────────────────────────────────────────────────


def test_install_status_uninstall(capsys, home, programs, platform):
    with serving({"small": EmbedderConfig(model=MODEL)}) as server:
        with server.client() as client:
            client.embed(["tea"], "small")
        port = server.url.rpartition(":")[2].strip("/")
        code, out, err = run(capsys, "install", f"small={MODEL}", "--port", port, "--keep-alive", "5m")
        assert (code, err) == (0, "")
        file = program(platform).file("akidb-mlx")
        assert out.startswith(f"# {file}\n{file.read_text()}")
        command = program(platform).command("akidb-mlx")
        assert command == [*own_command(), "serve", "--model", f"small={MODEL}", "--port", port, "--keep-alive", "5m"]
        code, out, err = run(capsys, "status")
        assert (code, err) == (0, "")
        assert f"address  http://127.0.0.1:{port}/\nhealth   ok\n" in out
    assert run(capsys, "status")[0] == 1  # it runs, but nobody answers
    code, out, err = run(capsys, "uninstall")
    assert (code, err, file.exists(), (home / "started").exists()) == (0, "", False, False)
    expected = {
        "linux": [
            "systemctl --user daemon-reload",
            "systemctl --user enable akidb-mlx",
            "systemctl --user restart akidb-mlx",
            "systemctl --user disable --now akidb-mlx",
        ],
        "darwin": [
            f"launchctl bootstrap gui/{os.getuid()} {file}",
            f"launchctl bootout gui/{os.getuid()}/io.github.akidb-mlx",
        ],
    }[platform]
    assert [line for line in programs() if "is-active" not in line and " print " not in line] == expected


def test_print_changes_nothing(capsys, home, programs, platform):
    code, out, _ = run(capsys, "install", MODEL, "--print")
    assert code == 0 and not program(platform).file("akidb-mlx").exists() and programs() == []
    assert MODEL in out


def test_what_is_taken_over_of_the_environment(capsys, home, platform, monkeypatch):
    monkeypatch.setenv("HF_HOME", "/data/hub")
    monkeypatch.setenv("AKIDB_MLX_DTYPE", "float32")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_TOKEN_PATH", "/data/token")
    monkeypatch.setenv("AKIDB_API_KEY", "sesame")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:word@proxy")
    monkeypatch.setenv("LANG", "de")
    code, out, err = run(capsys, "install", MODEL, "--print")
    assert code == 0
    assert {"HF_HOME", "/data/hub", "AKIDB_MLX_DTYPE", "/data/token"} <= set(out.replace("=", " ").split()) | set(
        out.replace(">", "<").split("<")
    )
    assert not [word for word in ("hf_secret", "sesame", "word@", "LANG") if word in out]
    assert [line.split()[1] for line in err.splitlines()] == ["AKIDB_API_KEY", "HF_TOKEN", "HTTPS_PROXY"]
    assert "--api-key-file" in err


def test_paths_hold_from_anywhere(capsys, home, platform, tmp_path, monkeypatch):
    folder = shutil.copytree(MODEL, tmp_path / "models" / "mine")
    (tmp_path / "serve.yaml").write_text(f"models:\n  a: {folder}\n")
    (tmp_path / "key").write_text("sesame")
    monkeypatch.chdir(tmp_path)
    _, out, _ = run(capsys, "install", "x=models/mine", "--api-key-file", "key", "--print")
    assert f"x={folder}" in out and str(tmp_path / "key") in out
    _, out, _ = run(capsys, "install", "--config", "serve.yaml", "--print")
    assert str(tmp_path / "serve.yaml") in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["install"], "say what to serve"),
        (["install", MODEL, "--port", "70000"], "port = "),
        (["install", MODEL, "--keep-alive", "soon"], "keep_alive = 'soon'"),
        (["install", MODEL, "--api-key-file", "/nowhere/key"], "cannot read api_key_file"),
        (["install", MODEL, "--name", "../x"], "--name '../x'"),
        (["install", MODEL, "--unheard"], "--unheard"),
        (["status"], "no service akidb-mlx is installed"),
        (["uninstall", "--name", "other"], "no service other is installed"),
        (["status", MODEL], "takes --name alone"),
        (["uninstall", "--port", "1"], "takes --name alone"),
        (["begin"], "invalid choice: 'begin'"),
    ],
)
def test_mistakes_are_one_line(capsys, home, programs, platform, arguments, says):
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1) and says in err
    assert programs() == []


def test_what_systemctl_says_is_said(home, programs):
    with pytest.raises(BackendError, match="systemctl --user enable fail ended with code 3: no such luck"):
        Systemd().start("fail")


def test_without_systemd(home, monkeypatch):
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(ConfigError, match="there is no systemctl here; --print shows the file"):
        Systemd().start("akidb-mlx")


def test_another_system(capsys, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    code, _, err = run(capsys, "install", MODEL)
    assert code == 2 and "win32 has neither" in err


def test_the_command_is_the_link_that_upgrades_keep(home, monkeypatch):
    """As `uv tool`, pipx and Homebrew install: a link on the PATH to what stands beside their Python."""
    own = home / "tool" / "bin"
    own.mkdir(parents=True)
    (own / "akidb-mlx").write_text("#!/bin/sh\n")
    (own / "akidb-mlx").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(own / "python"))
    assert own_command() == (str(own / "akidb-mlx"),)
    (home / "bin" / "akidb-mlx").symlink_to(own / "akidb-mlx")
    assert own_command() == (str(home / "bin" / "akidb-mlx"),)
    (home / "bin" / "akidb-mlx").unlink()
    (home / "bin" / "akidb-mlx").write_text("#!/bin/sh\n")  # another's
    (home / "bin" / "akidb-mlx").chmod(0o755)
    assert own_command() == (str(own / "akidb-mlx"),)
    monkeypatch.setattr(sys, "executable", str(home / "python"))
    assert own_command() == (str(home / "python"), "-m", "akidb_mlx")


def test_what_is_written_runs():
    """The command of the file, as far as to its own help."""
    command = [*own_command(), "serve", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0 and "--keep-alive" in done.stdout, shlex.join(command)
    assert Path(command[0]).is_absolute() and service_file.own_command() == own_command()
