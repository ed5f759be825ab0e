"""The configuration: who wins, what is refused, and that nothing is read twice."""

import copy
import logging
import multiprocessing
import os
import pickle
import textwrap
from pathlib import Path

import pytest

from akidb_mlx.config import sources as config_sources
from akidb_mlx.config.embedder_config import RUN_FIELDS, VECTOR_FIELDS, EmbedderConfig
from akidb_mlx.config.options import DEFAULT_MODEL, MODEL_ALIASES, POOLING_MODES, EmbedderOptions
from akidb_mlx.errors import ConfigError

AKIDB_FILE = """
    embedding:
      model_name: gemma-300m-4bit
      pooling: mean
      normalize: true
      max_tokens: 512
      batch_size: 32
      auto_download: false
    server:
      port: 8080
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """No variable, no file in sight: the working and the home folder are empty."""
    for name in [name for name in os.environ if name.startswith(("AKIDB_MLX_", "AKIDB_CONFIG"))]:
        monkeypatch.delenv(name)
    for folder in ("work", "home"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    config_sources._report_unused.cache_clear()


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


# defaults and fields


def test_plain_defaults_leave_everything_to_the_checkpoint_and_the_device():
    config = EmbedderConfig()
    assert config.model == DEFAULT_MODEL == "mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ"
    chosen = {name: value for name, value in config.model_dump().items() if value is not None}
    assert chosen == {
        "model": DEFAULT_MODEL,
        "on_overlong": "truncate",
        "query_latency_target_ms": 20.0,
        "local_files_only": False,
    }


def test_every_field_but_the_model_is_an_option_of_the_adapters():
    assert set(EmbedderConfig.model_fields) - set(EmbedderOptions.model_fields) == {"model"}


def test_every_field_says_whether_it_changes_vectors():
    assert set(EmbedderConfig.model_fields) == VECTOR_FIELDS | RUN_FIELDS
    assert not VECTOR_FIELDS & RUN_FIELDS
    assert {
        "model",
        "revision",
        "pooling",
        "normalize",
        "max_seq_length",
        "truncate_dim",
        "query_prompt",
        "document_prompt",
        "task",
        "tokenizer",
        "exact_reference",
        "dtype",
    } == VECTOR_FIELDS


@pytest.mark.parametrize("alias", MODEL_ALIASES)
def test_an_alias_becomes_the_hub_id(alias, monkeypatch):
    assert EmbedderConfig(model=alias).model == MODEL_ALIASES[alias]
    monkeypatch.setenv("AKIDB_MLX_MODEL", alias)
    assert EmbedderConfig().model == MODEL_ALIASES[alias]


@pytest.mark.parametrize(
    ("said", "mode"),
    [
        *zip(POOLING_MODES, POOLING_MODES, strict=True),
        ("lasttoken", "last_token"),
        ("mean_sqrt_len_tokens", "mean_sqrt_len"),
        ("weightedmean", "weighted_mean"),
    ],
)
def test_pooling_modes_and_sentence_transformers_spellings(said, mode):
    assert EmbedderConfig(pooling=said).pooling == mode


def test_paths_are_taken_as_model_and_cache_dir(tmp_path):
    config = EmbedderConfig(model=tmp_path, cache_dir="~/models")
    assert config.model == str(tmp_path)
    assert config.cache_dir == tmp_path / "home" / "models"


def test_an_empty_prompt_is_a_prompt(monkeypatch):
    monkeypatch.setenv("AKIDB_MLX_QUERY_PROMPT", "")
    config = EmbedderConfig(document_prompt="")
    assert (config.query_prompt, config.document_prompt) == ("", "")


# precedence


def test_arguments_then_variables_then_file_then_defaults(monkeypatch):
    file = written(Path("embedding_config.yaml"), "truncate_dim: 1\nmax_seq_length: 1\npooling: max\n").absolute()
    monkeypatch.setenv("AKIDB_MLX_TRUNCATE_DIM", "2")
    monkeypatch.setenv("AKIDB_MLX_MAX_SEQ_LENGTH", "2")
    config = EmbedderConfig(truncate_dim=3)
    assert (config.truncate_dim, config.max_seq_length, config.pooling) == (3, 2, "max")
    assert config.source_of("truncate_dim") == "argument"
    assert config.source_of("max_seq_length") == "AKIDB_MLX_MAX_SEQ_LENGTH"
    assert config.source_of("pooling") == f"{file}: pooling"
    assert config.source_of("normalize") == "default"


def test_none_that_was_given_wins_too(monkeypatch):
    monkeypatch.setenv("AKIDB_MLX_POOLING", "cls")
    assert EmbedderConfig(pooling=None).pooling is None


def test_only_the_first_file_found_is_read(tmp_path, monkeypatch):
    written(tmp_path / "home/.config/akidb/embedding_config.yaml", "truncate_dim: 3\nnormalize: false")
    assert EmbedderConfig().truncate_dim == 3
    written(tmp_path / "work/embedding_config.yaml", "truncate_dim: 2")
    assert (EmbedderConfig().truncate_dim, EmbedderConfig().normalize) == (2, None)
    monkeypatch.setenv("AKIDB_CONFIG", str(written(tmp_path / "named.yaml", "truncate_dim: 1")))
    assert EmbedderConfig().truncate_dim == 1
    explicit = EmbedderConfig.from_yaml(written(tmp_path / "explicit.yaml", "normalize: true"), dtype="float32")
    assert (explicit.truncate_dim, explicit.normalize, explicit.dtype) == (None, True, "float32")


def test_from_yaml_gives_way_to_variables_and_arguments(tmp_path, monkeypatch):
    file = written(tmp_path / "x.yaml", "truncate_dim: 1\nmax_seq_length: 1\n")
    monkeypatch.setenv("AKIDB_MLX_MAX_SEQ_LENGTH", "2")
    config = EmbedderConfig.from_yaml(str(file), truncate_dim=3)
    assert (config.truncate_dim, config.max_seq_length) == (3, 2)


def test_exact_reads_neither_environment_nor_file(monkeypatch):
    written(Path("embedding_config.yaml"), "truncate_dim: 1")
    monkeypatch.setenv("AKIDB_MLX_POOLING", "cls")
    config = EmbedderConfig.exact(normalize=False)
    assert (config.truncate_dim, config.pooling, config.normalize) == (None, None, False)


def test_with_changes_keeps_the_rest_and_checks(monkeypatch):
    monkeypatch.setenv("AKIDB_MLX_POOLING", "cls")
    config = EmbedderConfig()
    monkeypatch.setenv("AKIDB_MLX_POOLING", "mean")
    changed = config.with_changes(truncate_dim=4)
    assert (changed.pooling, changed.truncate_dim, config.truncate_dim) == ("cls", 4, None)
    assert (changed.source_of("pooling"), changed.source_of("truncate_dim")) == (
        "AKIDB_MLX_POOLING",
        "argument",
    )
    with pytest.raises(ConfigError, match="truncate_dim = 0"):
        config.with_changes(truncate_dim=0)


# AkiDB's file


def test_akidbs_own_file_works_unchanged(caplog):
    file = written(Path("embedding_config.yaml"), AKIDB_FILE).absolute()
    with caplog.at_level(logging.INFO):
        config = EmbedderConfig()
        EmbedderConfig()
    assert config.model == "mlx-community/embeddinggemma-300m-4bit"
    assert (config.pooling, config.normalize, config.max_seq_length, config.local_files_only) == (
        "mean",
        True,
        512,
        True,
    )
    assert config.source_of("pooling") == f"{file}: embedding.pooling"
    assert config.source_of("max_seq_length") == f"{file}: embedding.max_tokens"
    assert [record.message for record in caplog.records if "batch_size" in record.message] == [
        f"{file}: embedding.batch_size is unused: batches are made by tokens (max_batch_tokens)"
    ]


def test_the_embedding_section_takes_our_names_too(tmp_path):
    file = written(tmp_path / "x.yaml", "embedding:\n  model: m/n\n  truncate_dim: 8\n  auto_download: true\n")
    config = EmbedderConfig.from_yaml(file)
    assert (config.model, config.truncate_dim, config.local_files_only) == ("m/n", 8, False)


# what is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"poolin": "mean"}, "unknown argument poolin; did you mean pooling?"),
        ({"pooling": "avg"}, "pooling = 'avg' (argument): should be 'cls', 'mean', 'max', 'last_token'"),
        ({"max_seq_length": 0}, "max_seq_length = 0 (argument): should be greater than 0"),
        ({"max_seq_length": -5}, "max_seq_length = -5"),
        ({"truncate_dim": 0}, "truncate_dim = 0"),
        ({"truncate_dim": True}, "truncate_dim = True (argument): should be a number, not a boolean"),
        ({"truncate_dim": 1.5}, "truncate_dim = 1.5"),
        ({"max_batch_tokens": 0}, "max_batch_tokens = 0"),
        ({"max_queued_tokens": 0}, "max_queued_tokens = 0"),
        ({"tokenizer_processes": -1}, "tokenizer_processes = -1"),
        ({"tokenizer_processes": True}, "tokenizer_processes = True"),
        ({"query_latency_target_ms": 0}, "query_latency_target_ms = 0"),
        ({"query_latency_target_ms": float("nan")}, "query_latency_target_ms = nan"),
        ({"query_latency_target_ms": float("inf")}, "query_latency_target_ms = inf"),
        ({"cache_limit_mb": -1}, "cache_limit_mb = -1"),
        ({"dtype": "int8"}, "dtype = 'int8' (argument): should be 'float32', 'float16' or 'bfloat16'"),
        ({"device": "tpu"}, "device = 'tpu' (argument): should be 'gpu' or 'cpu'"),
        ({"on_overlong": "drop"}, "on_overlong = 'drop' (argument): should be 'truncate' or 'error'"),
        ({"model": ""}, "model = ''"),
        ({"model": 3}, "model = 3 (argument): should be a valid string"),
        ({"normalize": "perhaps"}, "normalize = 'perhaps'"),
        ({"query_prompt": 3}, "query_prompt = 3"),
    ],
)
def test_bad_arguments(given, message):
    for build in (EmbedderConfig, EmbedderConfig.exact, EmbedderConfig().with_changes):
        with pytest.raises(ConfigError) as caught:
            build(**given)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_all_bad_values_are_named_at_once(monkeypatch):
    monkeypatch.setenv("AKIDB_MLX_DTYPE", "int8")
    with pytest.raises(ConfigError, match=r"(?s)dtype = 'int8' \(AKIDB_MLX_DTYPE\).*truncate_dim = 0 \(argument\)"):
        EmbedderConfig(truncate_dim=0)


def test_long_values_are_cut():
    with pytest.raises(ConfigError) as caught:
        EmbedderConfig(pooling="x" * 10_000)
    assert len(str(caught.value)) < 300


def test_a_positional_argument_is_a_type_error():
    with pytest.raises(TypeError):
        EmbedderConfig("some/model")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "AKIDB_MLX_POOLIN",
            "mean",
            "unknown environment variable AKIDB_MLX_POOLIN; did you mean AKIDB_MLX_POOLING?",
        ),
        (
            "AKIDB_MLX_MODEL_NAME",
            "x",
            "unknown environment variable AKIDB_MLX_MODEL_NAME; did you mean AKIDB_MLX_MODEL?",
        ),
        ("akidb_mlx_pooling", "mean", "unknown environment variable akidb_mlx_pooling"),
        (
            "AKIDB_MLX_TRUNCATE_DIM",
            "many",
            "truncate_dim = 'many' (AKIDB_MLX_TRUNCATE_DIM): should be a valid integer",
        ),
        ("AKIDB_MLX_TRUNCATE_DIM", "", "truncate_dim = '' (AKIDB_MLX_TRUNCATE_DIM)"),
        (
            "AKIDB_MLX_NORMALIZE",
            "perhaps",
            "normalize = 'perhaps' (AKIDB_MLX_NORMALIZE): should be a valid boolean",
        ),
        ("AKIDB_CONFIG", "/nowhere/x.yaml", "AKIDB_CONFIG names '/nowhere/x.yaml', which is no file"),
        ("AKIDB_CONFIG", "", "AKIDB_CONFIG names ''"),
    ],
)
def test_bad_variables(name, value, message, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        EmbedderConfig()
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["AKIDB_MLX_BLAS", "AKIDB_MLX_RERANKER_MODEL", "akidb_mlx_reranker_device"])
def test_variables_of_others_are_no_fields(name, monkeypatch):
    monkeypatch.setenv(name, "off")
    EmbedderConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; it should be a mapping"),
        ("- pooling\n- mean\n", "holds ['pooling', 'mean']; it should be a mapping"),
        ("just text", "holds 'just text'"),
        ("pooling: [mean", "is no valid YAML: "),
        ("poolin: mean", "unknown key in {file}: poolin; did you mean pooling?"),
        ("1: mean", "unknown key in {file}: 1"),
        ("model_name: x", "unknown key in {file}: model_name"),
        ("pooling: avg", "pooling = 'avg' ({file}: pooling): should be 'cls'"),
        (
            "revision: 12345678",
            "revision = 12345678 ({file}: revision): should be a valid string (put it in quotes)",
        ),
        ("pooling: mean\npooling: cls", "{file}: `pooling` is written twice"),
        ("embedding:", "`embedding` should be a mapping of settings, not None"),
        ("embedding: [1]", "`embedding` should be a mapping of settings, not [1]"),
        ("embedding:\n  max_token: 3", "section embedding: max_token; did you mean max_tokens?"),
        ("embedding:\n  pooling: avg", "pooling = 'avg' ({file}: embedding.pooling)"),
        (
            "embedding:\n  max_tokens: 0",
            "max_seq_length = 0 ({file}: embedding.max_tokens): should be greater than 0",
        ),
        (
            "embedding:\n  auto_download: 3",
            "auto_download = 3 ({file}: embedding.auto_download): should be true or",
        ),
        (
            "embedding:\n  max_tokens: 3\n  max_seq_length: 4",
            "embedding.max_tokens and embedding.max_seq_length mean",
        ),
        ("embedding:\n  pooling: cls\n  pooling: mean", "`pooling` is written twice"),
    ],
)
def test_bad_files(text, message, tmp_path):
    file = written(tmp_path / "bad.yaml", text)
    with pytest.raises(ConfigError) as caught:
        EmbedderConfig.from_yaml(file)
    assert message.replace("{file}", str(file)) in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("model: \xe9".encode("latin-1"))
    for path in (tmp_path / "absent.yaml", tmp_path, tmp_path / "latin.yaml"):
        with pytest.raises(ConfigError, match="cannot read"):
            EmbedderConfig.from_yaml(path)


def test_a_user_without_a_home_folder_is_no_error(monkeypatch):
    def no_home(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", lambda self: no_home(self) if str(self).startswith("~") else self)
    EmbedderConfig()


# what lives on


def test_frozen_hashable_and_equal_by_value(monkeypatch):
    config = EmbedderConfig(truncate_dim=3)
    monkeypatch.setenv("AKIDB_MLX_TRUNCATE_DIM", "3")
    from_variable = EmbedderConfig()
    assert config == from_variable
    assert hash(config) == hash(from_variable)
    assert config != EmbedderConfig(truncate_dim=4)
    assert config != "text"
    assert len({config, from_variable, EmbedderConfig(truncate_dim=4)}) == 2
    with pytest.raises(ConfigError, match=r"truncate_dim is settled at construction; with_changes\(truncate_dim=…\)"):
        config.truncate_dim = 5
    with pytest.raises(ConfigError, match="truncate_dim is settled"):
        del config.truncate_dim
    with pytest.raises(ConfigError, match="unknown field poling; did you mean pooling"):
        config.poling = "cls"


def _values_and_origin(config, connection):
    connection.send((config.model_dump(), config.source_of("pooling"), EmbedderConfig.exact() == config))
    connection.close()


def test_copies_unpickling_and_spawned_children_read_nothing_again(monkeypatch):
    monkeypatch.setenv("AKIDB_MLX_POOLING", "cls")
    config = EmbedderConfig(truncate_dim=3, cache_dir="models")
    expected = config.model_dump()
    data = pickle.dumps(config)
    written(Path("embedding_config.yaml"), "normalize: false")
    monkeypatch.setenv("AKIDB_MLX_POOLING", "not read, or this would be an error")
    for other in (pickle.loads(data), copy.copy(config), copy.deepcopy(config), config.model_copy()):
        assert other == config
        assert (other.model_dump(), other.source_of("pooling")) == (expected, "AKIDB_MLX_POOLING")
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_values_and_origin, args=(config, theirs))
    child.start()
    assert ours.poll(30)
    assert ours.recv() == (expected, "AKIDB_MLX_POOLING", False)
    child.join()


def test_source_of_an_unknown_field_is_an_error():
    with pytest.raises(ConfigError, match="unknown field poling; did you mean pooling"):
        EmbedderConfig().source_of("poling")
