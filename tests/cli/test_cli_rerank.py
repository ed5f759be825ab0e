"""`akidb-mlx rerank`, and `info`, `doctor`, `bench`, `serve` for rerankers: what they write and what they refuse."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from akidb_mlx import Reranker, RerankerConfig
from akidb_mlx.cli import main
from akidb_mlx.corpus import PairScorer, embed_corpus, embedding, read_output, read_recipe, rerank_corpus
from akidb_mlx.errors import BackendError, ConfigError, InputError, ModelNotFoundError
from support.checkpoints import PROMPTS, RERANKERS
from support.comparison import assert_close
from support.reranker import StandIn, loaded_as, logit, sigmoid

TINY, REAL = str(PROMPTS), str(RERANKERS / "bert")


@pytest.fixture
def made(monkeypatch):
    """The stand-ins that were loaded."""
    with loaded_as(monkeypatch) as made:
        yield made


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """600 pairs in the working folder."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"key": f"k{i}", "q": f"what about number {i % 7}", "body": f"number {i % 5} is it", "n": i} for i in range(600)
    ]
    Path("in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return rows


@pytest.fixture
def folder(tmp_path):
    """What the files of a reranker say; its weights are never read."""
    folder = tmp_path / "cross-encoder"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "bert", "architectures": ["BertForSequenceClassification"]})
    )
    return str(folder)


def rerank(*options, model="stand-in"):
    return main(["rerank", "in.jsonl", "--query-column", "q", "--text-column", "body", "--model", model, *options])


def error(capsys):
    """The one line on standard error."""
    told = capsys.readouterr().err.strip()
    assert told.startswith("akidb-mlx: ")
    assert "\n" not in told
    return told


def expected(rows):
    return pytest.approx([sigmoid(logit(row["q"], row["body"])) for row in rows], abs=1e-6)


# what is written


def test_a_table_of_scores_once(rows, made, capsys):
    options = ("--to", "out.parquet", "--id-column", "key", "--no-progress")
    assert rerank(*options) == 0
    out = capsys.readouterr()
    assert out.out.startswith("out.parquet: 600 rows, ")
    assert out.err == ""
    table = pq.read_table("out.parquet")
    assert table.schema.field("score").type == pa.float32()
    assert table.column_names == ["id", "score", "q", "body", "n"]
    assert table["id"].to_pylist() == [row["key"] for row in rows]
    assert table["score"].to_pylist() == expected(rows)
    assert table["n"].to_pylist() == list(range(600))
    assert not Path("out.parquet.rejects.jsonl").exists()
    assert rerank(*options) == 0
    assert capsys.readouterr().out == "out.parquet is finished: 600 rows; nothing to do\n"
    assert not any(reranker.healthy for reranker in made)


def test_jsonl_has_the_shortest_digits(rows, made):
    assert rerank("--to", "out.jsonl", "--keep", "n", "--no-progress") == 0
    lines = Path("out.jsonl").read_text().splitlines()
    written = list(map(json.loads, lines))
    assert [row["score"] for row in written] == expected(rows)
    assert set(written[0]) == {"id", "n", "score"}
    assert max(len(line.partition('"score": ')[2]) for line in lines) <= 16
    recipe = json.loads(Path("out.jsonl.meta.json").read_text())
    assert (recipe["kind"], recipe["query_column"], recipe["text_column"]) == ("reranker", "q", "body")
    assert recipe["activation"] == "sigmoid"


def test_npy_is_one_number_a_row(rows, made):
    assert rerank("--to", "out.npy", "--keep", "", "--no-progress") == 0
    scores = np.load("out.npy")
    assert (scores.shape, scores.dtype) == ((600,), np.float32)
    assert scores.tolist() == expected(rows)
    assert json.loads(Path("out.npy.rows.jsonl").read_text().splitlines()[3]) == {"id": "in.jsonl:4"}


def test_options_are_the_configurations(rows, made):
    assert rerank("--to", "out.npy", "--activation", "identity", "--no-progress") == 0
    assert np.load("out.npy").tolist() == pytest.approx([logit(row["q"], row["body"]) for row in rows])
    assert made[0].config.source_of("activation") == "argument"


def test_csv_and_parquet_are_read_too(rows, made):
    with Path("in.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["key", "q", "body", "n"])
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), "in.parquet")
    for name in ("in.csv", "in.parquet"):
        summary = rerank_corpus(
            [name], f"{name}.out.parquet", StandIn(), query_column="q", text_column="body", keep=["n"]
        )
        assert summary.rows == 600
        table = pq.read_table(f"{name}.out.parquet")
        assert table["score"].to_pylist() == expected(rows)
        assert table.column_names == ["id", "score", "n"]


def test_bad_rows_go_to_the_rejects_and_the_others_are_scored(rows, made):
    bad = [
        '{"q": "a", "body": null}',
        '{"body": "b"}',
        '{"q": 3, "body": "b"}',
        "{",
        json.dumps({"q": "long", "body": "word " * 60}),
    ]
    good = '{"q": "a b", "body": "a b"}'
    Path("in.jsonl").write_text("\n".join([good, *bad, good]))
    assert rerank("--to", "out.parquet", "--on-overlong", "error", "--no-progress") == 0
    assert pq.read_table("out.parquet")["score"].to_pylist() == pytest.approx([sigmoid(4)] * 2)
    rejects = [json.loads(line) for line in Path("out.parquet.rejects.jsonl").read_text().splitlines()]
    assert [reject["row"] for reject in rejects] == [2, 3, 4, 5, 6]
    assert rejects[0]["reason"] == "no text in column body"
    assert rejects[1]["reason"] == "no text in column q"
    assert rejects[2]["reason"] == "column q holds a int, not text"
    assert "JSON" in rejects[3]["reason"]
    assert rejects[4]["reason"] == "the text has more than 48 tokens"
    assert (rejects[4]["q"], rejects[4]["body"]) == ("long", "word " * 60)


def test_every_bad_pair_of_many_is_found(tmp_path):
    def rule(query, text):
        if "bad" in text:
            raise InputError("text 3 has no tokens")
        return logit(query, text)

    scorer, told = PairScorer(StandIn(rule=rule)), {}
    pairs = [("a", "bad" if i in (0, 17, 599) else f"a {i}") for i in range(600)]
    chunks = list(scorer.encode_stream(pairs, 100, on_error=lambda place, error: told.update({place: str(error)})))
    assert [len(chunk) for chunk in chunks] == [100] * 6
    assert sorted(told) == [0, 17, 599]
    assert np.flatnonzero(np.isnan(np.concatenate(chunks))).tolist() == [0, 17, 599]
    with pytest.raises(InputError):
        list(scorer.encode_stream(pairs))


def test_a_run_that_was_interrupted_goes_on(rows, monkeypatch):
    monkeypatch.setattr(embedding, "_FIRST_CHUNK", 50)
    monkeypatch.setattr(embedding, "_FIRST_PART_S", 0.0)
    monkeypatch.setattr(embedding, "_PART_S", 0.0)
    options = {"query_column": "q", "text_column": "body", "id_column": "key"}

    class Breaks(StandIn):
        def predict(self, pairs, **more):
            if any(text == "number 3 is it" and query.endswith("6") for query, text in pairs) and len(self.calls) > 6:
                raise OSError("the disk is full")
            return super().predict(pairs, **more)

    with pytest.raises(OSError, match="rows are safe in out.parquet.parts"):
        rerank_corpus(["in.jsonl"], "out.parquet", Breaks(), **options)
    second = StandIn()
    summary = rerank_corpus(["in.jsonl"], "out.parquet", second, **options)
    assert 0 < summary.resumed < 600
    assert summary.rows == 600
    assert sum(len(pairs) for pairs, _ in second.calls) == 600 - summary.resumed
    assert pq.read_table("out.parquet")["score"].to_pylist() == expected(rows)


def test_a_device_that_fails_on_everything_ends_the_run(rows):
    def rule(query, text):
        raise BackendError("the device is gone")

    with pytest.raises(BackendError, match="the device is gone"):
        rerank_corpus(["in.jsonl"], "out.parquet", StandIn(rule=rule), query_column="q", text_column="body")


# what is refused


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--to", "out.txt"], "its name must end in .parquet, .jsonl, .npy"),
        (["--to", "out.npy", "--query-column", "question"], "has no column 'question' (it has key, q, body, n)"),
        (["--to", "out.npy", "--activation", "relu"], "activation = 'relu'"),
        (["--to", "in.jsonl"], "both input and output"),
    ],
)
def test_a_users_mistake_is_exit_2_and_one_line(rows, made, capsys, options, told):
    assert rerank("--no-progress", *options) == 2
    assert told in error(capsys)
    assert sorted(path.name for path in Path().iterdir()) == ["in.jsonl"]


def test_a_text_file_has_no_pairs(rows, made, capsys):
    Path("note.txt").write_text("a")
    assert main(["rerank", "note.txt", "--to", "out.npy", "--model", "x"]) == 2
    assert "note.txt has no columns, but a pair is the columns 'query' and 'text' of a table" in error(capsys)


def test_a_column_of_the_outputs_name_is_refused(rows, made, capsys):
    Path("in.jsonl").write_text('{"q": "a", "body": "b", "score": 1, "embedding": [1]}')
    assert rerank("--to", "out.npy", "--no-progress") == 2
    assert "has a column 'score', a name that the output needs: list the columns to keep without it" in error(capsys)
    assert rerank("--to", "out.parquet", "--keep", "embedding", "--no-progress") == 0
    assert pq.read_table("out.parquet").column_names == ["id", "score", "embedding"]


def test_another_recipe_or_kind_in_the_output_is_exit_2(rows, made, capsys, tiny):
    assert rerank("--to", "out.parquet", "--no-progress") == 0
    capsys.readouterr()
    assert rerank("--to", "out.parquet", "--activation", "identity", "--no-progress") == 2
    assert 'was made otherwise: activation was "sigmoid" and is now "identity"' in error(capsys)
    with pytest.raises(ConfigError, match="it holds scores, not embeddings"):
        embed_corpus(["in.jsonl"], "out.parquet", tiny, text_column="body")
    with pytest.raises(InputError, match="a table of scores"):
        next(read_output("out.parquet"))
    embed_corpus(["in.jsonl"], "vectors.parquet", tiny, text_column="body")
    assert rerank("--to", "vectors.parquet", "--no-progress") == 2
    assert "it holds embeddings, not scores" in error(capsys)
    assert "kind" not in read_recipe("vectors.parquet")


def test_several_labels_are_no_score(rows, monkeypatch, capsys):
    with loaded_as(monkeypatch, lambda config: StandIn(config, labels=3)):
        assert rerank("--to", "out.npy", "--no-progress") == 2
    assert "stand-in gives 3 scores per pair" in error(capsys)


def test_every_config_field_is_an_option(capsys):
    with pytest.raises(SystemExit):
        main(["rerank", "--help"])
    out = capsys.readouterr().out
    for name in RerankerConfig.model_fields:
        assert "--" + name.replace("_", "-") in out
    assert "--pooling" not in out


# info, doctor, bench


def test_info_knows_the_kind_and_loads_no_weights(monkeypatch, capsys):
    from akidb_mlx.model import loading

    monkeypatch.setattr(loading, "load_model", lambda *_: 1 / 0)
    assert main(["info", REAL, "--activation", "identity", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["kind"], facts["model_name"], facts["activation"]) == ("reranker", REAL, "identity")
    assert facts["refused"] is None
    assert main(["info", REAL]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["activation"] == "sigmoid  (default for one label)"
    monkeypatch.undo()
    with Reranker.load(REAL, activation="identity") as reranker:
        assert facts["fingerprint"] == reranker.fingerprint
        info = json.loads(json.dumps(reranker.info()))
    assert not {name for name in facts.keys() & info.keys() - {"sources"} if facts[name] != info[name]}


def test_a_real_reranker(rows, capsys):
    assert rerank("--to", "out.npy", "--no-progress", model=REAL) == 0
    with Reranker.load(REAL) as reranker:
        expected = reranker.predict([(row["q"], row["body"]) for row in rows])
    assert_close(np.load("out.npy"), expected, 1e-6)
    capsys.readouterr()
    assert main(["doctor", REAL]) in (0, 1)  # random weights rank at random
    found = {line[6:34].strip(): line[:4] for line in capsys.readouterr().out.splitlines()}
    assert found.pop("related above unrelated") in ("pass", "FAIL")
    assert set(found.values()) == {"pass"}, found
    assert main(["bench", REAL, "--seconds", "0.01", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["tokens_per_pair"] > 10
    assert figures["peak_mb"] > 0


def test_a_kind_may_be_said(made, capsys):
    """Of language models whose files say nothing."""
    assert main(["doctor", TINY, "--kind", "reranker", "--activation", "sigmoid"]) == 0
    assert len(made) == 1
    assert main(["bench", REAL, "--kind", "embedder", "--activation", "sigmoid"]) == 2
    assert "--activation is for rerankers" in error(capsys)


@pytest.mark.parametrize("command", ["info", "doctor", "bench"])
def test_an_option_of_the_other_kind_is_exit_2(command, folder, made, capsys):
    assert main([command, folder, "--pooling", "cls"]) == 2
    assert f"--pooling is for embedders; {folder} is a reranker" in error(capsys)
    assert main([command, TINY, "--activation", "sigmoid"]) == 2
    assert f"--activation is for rerankers; {TINY} is an embedder" in error(capsys)
    assert not made


def test_doctor_examines_a_reranker(folder, made, capsys):
    assert main(["doctor", folder]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:4] for line in lines] == ["pass"] * 6
    assert main(["doctor", folder, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    assert (report["model_name"], report["fingerprint"]) == (folder, made[1].fingerprint)
    Path("x.npz").write_bytes(b"")
    assert main(["doctor", folder, "--reference", "x.npz"]) == 2
    assert "is a reranker, which has none" in error(capsys)


class Drifts(StandIn):
    """Its scores depend on how many pairs are asked together."""

    def _logits(self, pairs):
        return super()._logits(pairs) + 0.001 * len(pairs)


@pytest.mark.parametrize(
    ("make", "failed"),
    [
        (
            lambda config: StandIn(config, rule=lambda query, text: 0.5),
            ["swapped pair", "not const", "at the le", "related"],
        ),
        (
            lambda config: StandIn(config, rule=lambda query, text: logit(text, query) + logit(query, text)),
            ["swapped pair"],
        ),
        (lambda config: StandIn(config, rule=lambda query, text: -logit(query, text)), ["related"]),
        (lambda config: StandIn(config, rule=lambda query, text: float(len(text))), ["at the le", "related"]),
        (lambda config: StandIn(config, rule=lambda query, text: float("nan")), None),
        (Drifts, ["batch = single"]),
    ],
)
def test_doctor_finds_what_is_wrong(folder, monkeypatch, capsys, make, failed):
    with loaded_as(monkeypatch, make):
        assert main(["doctor", folder]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    if failed is None:
        assert len(lines) == 6
    else:
        assert [any(line[6:].startswith(name) for line in lines) for name in failed] == [True] * len(failed), lines
        assert len(lines) == len(failed), lines


def test_doctor_asks_no_order_of_labels(folder, monkeypatch, capsys):
    with loaded_as(monkeypatch, lambda config: StandIn(config, labels=3)):
        assert main(["doctor", folder]) == 0
    assert "note  related above unrelated      3 labels" in capsys.readouterr().out


def test_bench_measures_a_reranker(folder, made, capsys):
    assert main(["bench", folder, "--seconds", "0.01", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures["pairs_per_s"]) == {"10", "100"}
    assert all(rate > 0 for rate in figures["pairs_per_s"].values())
    assert figures["rank_ms"]["100"] == pytest.approx(1e5 / figures["pairs_per_s"]["100"])
    assert main(["bench", folder, "--seconds", "0.01"]) == 0
    out = capsys.readouterr().out
    assert " 100 candidates" in out and "pairs/s" in out
    assert main(["bench", folder, "--plot", "speed.png"]) == 2
    assert "is a reranker" in error(capsys)


# serve


@pytest.fixture
def served(monkeypatch):
    """What `serve` would serve."""
    served = {}
    monkeypatch.setattr("akidb_mlx.server.logs.configure_logging", lambda: None)
    monkeypatch.setattr("akidb_mlx.server.serve.serve", lambda models, *_: served.update(models.configs))
    return served


def test_rerankers_beside_embedders(served):
    options = ["--model", "m=a", "--reranker", "r=b", "--reranker", "c/d", "--max-seq-length", "99", "--pooling", "cls"]
    assert main(["serve", *options]) == 0
    assert {name: type(config).__name__ for name, config in served.items()} == {
        "m": "EmbedderConfig",
        "r": "RerankerConfig",
        "c/d": "RerankerConfig",
    }
    assert [config.model for config in served.values()] == ["a", "b", "c/d"]
    assert {config.max_seq_length for config in served.values()} == {99}


def test_a_reranker_alone(served, monkeypatch):
    monkeypatch.setenv("AKIDB_MLX_MODEL", "an-embedder")
    monkeypatch.setenv("AKIDB_MLX_RERANKER_MAX_SEQ_LENGTH", "77")
    assert main(["serve", "--reranker", "b"]) == 0
    assert list(served) == ["b"]
    assert served["b"].max_seq_length == 77


def test_rerankers_in_the_file(served, tmp_path, capsys):
    path = tmp_path / "serve.yaml"
    path.write_text("models: {m: a}\nrerankers: {r: {model: b, prompt: 'q: '}, s: c}")
    assert main(["serve", "--config", str(path), "--dtype", "float32"]) == 0
    assert [(name, config.model, config.dtype) for name, config in served.items()] == [
        ("m", "a", "float32"),
        ("r", "b", "float32"),
        ("s", "c", "float32"),
    ]
    assert served["r"].prompt == "q: "
    assert served["r"].source_of("prompt") == f"{path}: rerankers.r.prompt"
    assert main(["serve", "--config", str(path), "--reranker", "x"]) == 2
    assert "lists the models; leave --reranker out" in error(capsys)
    for text, told in (
        ("rerankers: {r: {model: b, pooling: cls}}", "rerankers.r: pooling"),
        ("rerankers: []", "`rerankers` should map names"),
        ("models: {a: x}\nrerankers: {a: y}", "two models have the name 'a'"),
        ("rerankers: {a: x}\nmodel: y", "unknown key"),
    ):
        path.write_text(text)
        assert main(["serve", "--config", str(path)]) == 2
        assert told in error(capsys)
    path.write_text("rerankers: {a: x}")
    served.clear()
    assert main(["serve", "--config", str(path)]) == 0
    assert list(served) == ["a"]


def test_names_are_one_for_both_kinds(served, capsys):
    assert main(["serve", "--model", "x=a", "--reranker", "x=b"]) == 2
    assert "two models have the same name; give them names with --reranker NAME=MODEL" in error(capsys)


# the demo


def test_the_demo_reranks_where_a_reranker_is_at_hand(monkeypatch):
    from akidb_mlx.cli import demo

    assert demo._reranker_at_hand() is None  # the default one is not downloaded
    monkeypatch.setenv("AKIDB_MLX_RERANKER_MODEL", str(RERANKERS / "bert"))
    with demo._reranker_at_hand() as reranker:
        assert reranker.num_labels == 1
    monkeypatch.setenv("AKIDB_MLX_RERANKER_MODEL", "/no/such/folder")
    with pytest.raises(ModelNotFoundError):
        demo._reranker_at_hand()
