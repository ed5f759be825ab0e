"""A folder's files → facts, and one clear error for each way in which the files can be wrong."""

import json
import re
from collections import Counter
from dataclasses import MISSING, fields

import pytest

from akidb_mlx import Embedder
from akidb_mlx.checkpoint.facts import POOLING_NAMES, Checkpoint, Dense, read_checkpoint
from akidb_mlx.checkpoint.fill_in import FamilyFacts
from akidb_mlx.checkpoint.layout import Layout
from akidb_mlx.checkpoint.locate import resolve
from akidb_mlx.checkpoint.modules import Head, Usage
from akidb_mlx.checkpoint.said import Said
from akidb_mlx.checkpoint.tokenizer_facts import TokenizerFacts
from akidb_mlx.errors import AkiDBMLXError, CheckpointError, UnsupportedModelError
from akidb_mlx.model.architectures import make_backbone
from support.checkpoints import REFERENCE

pytestmark = pytest.mark.checkpoint("bert-dense")  # BERT, CLS pooling, Dense, Normalize
REMEDY = (
    r"download|set |save_pretrained|known:|supported|only|needs|must|states|never loaded|is none of|contradict"
    r"|copy|take the|merge|git lfs|convert it"
)


def change(file, **fields):
    """Set fields of a JSON file; `...` removes one."""
    content = json.loads(file.read_text(encoding="utf-8"))
    for name, value in fields.items():
        if value is ...:
            content.pop(name, None)
        else:
            content[name] = value
    file.write_text(json.dumps(content), encoding="utf-8")


def refuse(folder, error, *says):
    """Reading fails with one line that names these things and what to do."""
    with pytest.raises(error) as caught:
        read_checkpoint(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(REMEDY, message), message
    for text in says:
        assert text in message


# ── facts ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_facts_of_a_whole_checkpoint(folder):
    checkpoint = read_checkpoint(folder)
    assert checkpoint.model_type == "bert"
    assert checkpoint.pooling == ("cls",)
    assert checkpoint.include_prompt is True
    assert checkpoint.normalize is True
    assert checkpoint.max_seq_length == 48
    assert checkpoint.max_positions == 64
    assert checkpoint.weight_files == (folder / "model.safetensors",)
    assert checkpoint.tokenizer_file == folder / "tokenizer.json"
    assert checkpoint.dense == (
        Dense("2_Dense", 16, 12, True, "tanh", False, folder / "2_Dense" / "model.safetensors"),
    )
    assert checkpoint.sources["pooling"] == "1_Pooling/config.json"
    assert checkpoint.sources["max_seq_length"] == "sentence_bert_config.json"
    assert checkpoint.sources["normalize"] == "modules.json"
    assert checkpoint.sources["dense"] == "2_Dense"


NAMES = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last_token",
}
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last_token",
}


@pytest.mark.parametrize(("flag", "ours"), FLAGS.items())
def test_each_flag_of_the_old_form(folder, flag, ours):
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({**dict.fromkeys(FLAGS, False), flag: True}))
    assert read_checkpoint(folder).pooling == (ours,)


def test_every_name_is_tested():
    assert POOLING_NAMES == NAMES


@pytest.mark.parametrize(("theirs", "ours"), NAMES.items())
def test_the_new_form_of_the_pooling_file(folder, theirs, ours):
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"embedding_dimension": 16, "pooling_mode": theirs}))
    assert read_checkpoint(folder).pooling == (ours,)


def test_several_modes_keep_their_order(folder):
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": ["max", "cls"]}))
    assert read_checkpoint(folder).pooling == ("max", "cls")


def test_the_old_form_of_the_pooling_file(folder):
    flags = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    flags |= {"pooling_mode_lasttoken": False, "include_prompt": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    checkpoint = read_checkpoint(folder)
    assert checkpoint.pooling == ("cls", "mean")
    assert checkpoint.include_prompt is False


def test_without_normalize_vectors_are_not_normalised(folder):
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:3]))
    assert read_checkpoint(folder).normalize is False


def test_without_modules_nothing_is_guessed(folder):
    (folder / "modules.json").unlink()
    checkpoint = read_checkpoint(folder)
    assert checkpoint.pooling is None
    assert checkpoint.normalize is None
    assert checkpoint.dense == ()


def test_prompts(folder):
    prompts = {"query": "q: ", "document": None}
    change(folder / "config_sentence_transformers.json", prompts=prompts, default_prompt_name="query")
    checkpoint = read_checkpoint(folder)
    assert checkpoint.prompts == {"query": "q: ", "document": ""}
    assert checkpoint.default_prompt_name == "query"


@pytest.mark.parametrize("kind", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarity(folder, kind):
    change(folder / "config_sentence_transformers.json", similarity_fn_name=kind)
    assert read_checkpoint(folder).similarity == kind


@pytest.mark.parametrize(
    ("sentence", "tokenizer", "positions", "length"),
    [
        (48, 20, 64, 48),  # sentence-transformers' own word wins over the tokenizer's
        (100, 20, 64, 64),  # but no table has more rows than it has
        (None, 20, 64, 20),
        (None, 1e30, 64, 64),  # "no limit"
        (None, 512, 64, 64),
        (..., 20, 64, 20),
        (None, 1e30, ..., 512),  # what BERT's class says
        (None, ..., ..., 512),
    ],
)
def test_the_usable_length(folder, sentence, tokenizer, positions, length):
    change(folder / "sentence_bert_config.json", max_seq_length=sentence)
    change(folder / "tokenizer_config.json", model_max_length=tokenizer)
    change(folder / "config.json", max_position_embeddings=positions)
    assert read_checkpoint(folder).max_seq_length == length


@pytest.mark.parametrize("value", [None, "1", 1.5])
def test_positions_after_padding_need_the_padding(folder, value):
    change(folder / "config.json", model_type="xlm-roberta", pad_token_id=value)
    refuse(folder, CheckpointError, "config.json", "pad_token_id")


def test_positions_after_padding_hold_fewer_tokens(folder):
    change(folder / "config.json", model_type="xlm-roberta", pad_token_id=1)
    change(folder / "sentence_bert_config.json", max_seq_length=512)
    assert read_checkpoint(folder).max_seq_length == 62


def test_shards_are_found_by_their_index():
    checkpoint = read_checkpoint(REFERENCE / "bert-sharded")
    assert len(checkpoint.weight_files) > 1
    assert all(file.is_file() for file in checkpoint.weight_files)


def test_a_transformer_in_a_folder_of_its_own():
    checkpoint = read_checkpoint(REFERENCE / "bert-subfolder")
    assert checkpoint.sources["architecture"] == "0_Transformer/config.json"
    assert checkpoint.tokenizer_file.parent.name == "0_Transformer"


def test_a_name_and_a_revision_are_kept(folder):
    checkpoint = read_checkpoint(folder, "owner/name", "abc")
    assert (checkpoint.name, checkpoint.revision, checkpoint.path) == ("owner/name", "abc", folder)


READERS = (Layout, Head, TokenizerFacts, Usage, FamilyFacts)


def test_one_reader_tells_each_fact():
    told = Counter(field.name for reader in (Said, *READERS) for field in fields(reader))
    named = {field.name for field in fields(Checkpoint)}
    assert {name: count for name, count in told.items() if name in named and count != 1} == {}
    assert named - set(told) == {
        "revision",
        "config",
        "config_defaults",
        "model_type",
        "sources",
        "chat",
        "side_lengths",
        "adapters",
        "task_required",
    }
    # … of the call, of `Said.architecture`, and of what the file says of each call (`processing`)
    parts = {"layout", "architecture", "head", "tokenizer", "usage"}
    assert set(told) - named == parts | {
        "folder",
        "config_sources",
        "own_code",
        "has_own_length",
        "task",
        "processing",
        "is_known",
    }


def test_each_fact_arrives_with_its_source(folder):
    """One folder in which no fact has its default, but for what a conversion leaves out (test_families)."""
    change(folder / "1_Pooling" / "config.json", include_prompt=False)
    change(folder / "sentence_bert_config.json", do_lower_case=True)
    change(folder / "tokenizer_config.json", truncation_side="left", tokenizer_class="LlamaTokenizer")
    change(folder / "tokenizer_config.json", add_eos_token=True)
    change(folder / "config.json", quantization={"bits": 4})
    usage = {"prompts": {"x": "y"}, "default_prompt_name": "x", "truncate_dim": 8, "similarity_fn_name": "dot"}
    change(folder / "config_sentence_transformers.json", **usage)
    (folder / "README.md").write_text("---\nbase_model: nomic-ai/nomic-embed-text-v1.5\n---\n")
    checkpoint = read_checkpoint(folder, revision="abc")
    defaults = {}
    for field in fields(Checkpoint):
        defaults[field.name] = field.default_factory() if field.default_factory is not MISSING else field.default
    unsaid = [name for name, default in defaults.items() if getattr(checkpoint, name) in (default, None)]
    assert unsaid == [
        "config_defaults",
        "chat",
        "adapters",
        "output",
        "left_out",
        "side_lengths",
        "truncation_layer_norm",
        "task_required",
    ]  # tested elsewhere
    assert checkpoint.sources == {
        "architecture": "config.json",
        "quantization": "config.json",
        "pooling": "1_Pooling/config.json",
        "dense": "2_Dense",
        "normalize": "modules.json",
        "max_seq_length": "sentence_bert_config.json",
        "prompts": "config_sentence_transformers.json",
        "similarity": "config_sentence_transformers.json",
        "truncate_dim": "config_sentence_transformers.json",
        "matryoshka": "config_sentence_transformers.json",
    }


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────


def test_no_config(folder):
    (folder / "config.json").unlink()
    refuse(folder, CheckpointError, str(folder / "config.json"), "missing", "download")


JSON_FILES = [
    "config.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "modules.json",
]


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize("content", ['{"model_type": "be', "", "null", "5", '"text"', "\ufeff\ud83d", "[1]"])
def test_torn_json_names_its_file(folder, name, content):
    (folder / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    refuse(folder, AkiDBMLXError, str(folder / name))


def test_a_config_without_model_type(folder):
    change(folder / "config.json", model_type=...)
    with pytest.raises(CheckpointError, match="config.json has no model_type"):
        read_checkpoint(folder)


@pytest.mark.checkpoint("bert-sharded")
def test_a_missing_shard(folder):
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    refuse(folder, CheckpointError, str(folder), shard.name, "download")


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": {"a": 5}}'])
def test_an_index_that_lists_nothing(folder, content):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"model.safetensors.index.json"):
        read_checkpoint(folder)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    refuse(folder, CheckpointError, str(folder), "model.safetensors", "download")


@pytest.mark.parametrize("name", ["adapter_model.bin", "model.pt"])
def test_weights_under_another_name(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    refuse(folder, CheckpointError, "lacks model.safetensors", f"{name} is not the name of a model's weights")


def test_no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    refuse(folder, CheckpointError, str(folder / "tokenizer.json"), "save_pretrained")


def test_dense_without_weights(folder):
    (folder / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="2_Dense.*Dense layer has no weights"):
        read_checkpoint(folder)


def test_dense_without_its_config(folder):
    (folder / "2_Dense" / "config.json").unlink()
    refuse(folder, CheckpointError, "2_Dense", "copy")


@pytest.mark.parametrize("key", ["in_features", "out_features"])
def test_dense_without_a_size(folder, key):
    change(folder / "2_Dense" / "config.json", **{key: ...})
    refuse(folder, CheckpointError, "2_Dense/config.json", key)


def test_an_unknown_activation(folder):
    change(folder / "2_Dense" / "config.json", activation_function="torch.nn.modules.activation.Mish")
    refuse(folder, UnsupportedModelError, "2_Dense/config.json", "Mish", "Tanh")


@pytest.mark.parametrize("mode", ["mode", ["mean", "mode"], "", [], "Mean"])
def test_an_unknown_pooling_mode(folder, mode):
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": mode}))
    refuse(folder, UnsupportedModelError, "1_Pooling/config.json", "pooling_mode", "weightedmean")


def test_an_unknown_pooling_flag(folder):
    file = folder / "1_Pooling" / "config.json"
    file.write_text(json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_median": True}))
    refuse(folder, UnsupportedModelError, "1_Pooling/config.json", "pooling_mode_median")


def test_an_index_that_a_conversion_left_beside_a_whole_file(folder):
    """transformers takes the whole file."""
    index = {"weight_map": {"embeddings.word_embeddings.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_checkpoint(folder).weight_files == (folder / "model.safetensors",)


@pytest.mark.checkpoint("bert-mean")
def test_no_pooling_mode_at_all_is_the_mean(folder):
    """As the reference has it."""
    assert read_checkpoint(folder).pooling == ("mean",)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": False}))
    assert read_checkpoint(folder).pooling == ("mean",)


@pytest.mark.checkpoint("eurobert-mean")
def test_a_longer_length_is_taken_where_positions_rotate(folder):
    assert read_checkpoint(folder).max_positions is None


INERT = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
    "query_length": None,
    "model_args": {"attn_implementation": "sdpa", "trust_remote_code": True},
    "processing_kwargs": {},
    "unpad_inputs": True,
}


@pytest.mark.parametrize("key", INERT)
def test_keys_that_change_nothing(folder, key):
    file = folder / "sentence_bert_config.json"
    before = read_checkpoint(folder)
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: INERT[key]}))
    assert read_checkpoint(folder) == before


CHANGING = {
    "transformer_task": "fill-mask",
    "modality_config": {"text": {"method": "forward", "method_output_name": ["hidden_states", 1]}},
    "module_output_name": "sentence_embedding",
    "query_expansion": True,
    "model_args": {"num_hidden_layers": 1},
    "config_kwargs": {"num_hidden_layers": 1},
    "processor_kwargs": {"do_lower_case": False},
    "processing_kwargs": {"text": {"add_special_tokens": False}},
    "something_new": 1,
}


@pytest.mark.parametrize("key", CHANGING)
def test_keys_that_are_not_computed(folder, key):
    file = folder / "sentence_bert_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: CHANGING[key]}))
    refuse(folder, UnsupportedModelError, "sentence_bert_config.json", key)


def test_the_first_file_for_the_transformer_in_the_references_order(folder):
    """Not the alphabet's: sentence_bert comes first, sentence_albert late; an empty one says nothing."""
    file = folder / "sentence_bert_config.json"
    (folder / "sentence_albert_config.json").write_text(json.dumps({"max_seq_length": 7}))
    assert read_checkpoint(folder).max_seq_length == json.loads(file.read_text())["max_seq_length"]
    file.write_text("{}")
    assert read_checkpoint(folder).max_seq_length == 7


def modules(folder, *kinds):
    prefix = "sentence_transformers.models."
    entries = [{"idx": i, "name": str(i), "path": path, "type": prefix + kind} for i, (kind, path) in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(entries))


TRANSFORMER, POOLING, DENSE, NORMALIZE = (
    ("Transformer", ""),
    ("Pooling", "1_Pooling"),
    ("Dense", "2_Dense"),
    ("Normalize", "3_Normalize"),
)


@pytest.mark.parametrize(
    "kinds",
    [
        (TRANSFORMER, POOLING, ("LayerNorm", "2_LayerNorm")),
        (TRANSFORMER, ("WeightedLayerPooling", "1_Pooling")),
        (TRANSFORMER, DENSE),
        (TRANSFORMER, ("Dropout", "1_Dropout"), POOLING),
        (TRANSFORMER, POOLING, NORMALIZE, DENSE),
        (("CLIPModel", ""), POOLING),
        (POOLING,),
        (),
    ],
)
def test_a_module_that_would_not_be_applied(folder, kinds):
    modules(folder, *kinds)
    refuse(folder, AkiDBMLXError, "modules.json")


def test_another_pooling_starts_anew(folder):
    """It reads the tokens' vectors and writes the text's; what a Dense or Normalize made of that is lost."""
    change(folder / "1_Pooling" / "config.json", pooling_mode="max")
    (folder / "4_Pooling").mkdir()
    (folder / "4_Pooling" / "config.json").write_text('{"embedding_dimension": 16, "pooling_mode": "mean"}')
    modules(folder, TRANSFORMER, POOLING, DENSE, NORMALIZE, ("Pooling", "4_Pooling"))
    checkpoint = read_checkpoint(folder)
    assert (checkpoint.pooling, checkpoint.dense, checkpoint.normalize) == (("mean",), (), False)


def test_normalize_twice_and_dropout_after_it(folder):
    modules(folder, TRANSFORMER, POOLING, NORMALIZE, NORMALIZE, ("Dropout", "5_Dropout"))
    assert read_checkpoint(folder).normalize is True


@pytest.mark.parametrize("name", ["README.md", "config.json", "modules.json", "1_Pooling/config.json", "tokenizer.json",
                                  "config_sentence_transformers.json", "sentence_bert_config.json", "model.safetensors",
                                  "special_tokens_map.json", "2_Dense/model.safetensors"])  # fmt: skip
def test_a_link_that_leads_nowhere_is_not_absent(folder, name):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("nowhere")
    refuse(folder, CheckpointError, f"{folder / name} is a link that leads nowhere (nowhere)")


@pytest.mark.parametrize(
    "name", ["config_sentence_transformers.json", "sentence_bert_config.json", "tokenizer_config.json"]
)
def test_an_empty_file_or_a_folder_is_not_absent(folder, name):
    (folder / name).write_bytes(b"")
    refuse(folder, CheckpointError, f"{folder / name} is empty")
    (folder / name).unlink()
    (folder / name).mkdir()
    refuse(folder, CheckpointError, f"{folder / name} is no file")


def test_dropout_does_nothing(folder):
    modules(folder, TRANSFORMER, POOLING, ("Dropout", "2_Dropout"), NORMALIZE)
    assert read_checkpoint(folder).normalize is True


def test_a_default_prompt_that_is_not_there(folder):
    change(folder / "config_sentence_transformers.json", prompts={"query": "q"}, default_prompt_name="passage")
    refuse(folder, CheckpointError, "config_sentence_transformers.json", "'passage'", "query")


def test_an_unknown_similarity(folder):
    change(folder / "config_sentence_transformers.json", similarity_fn_name="hamming")
    refuse(folder, UnsupportedModelError, "config_sentence_transformers.json", "hamming", "cosine")


@pytest.mark.parametrize("length", [0, -1])
def test_a_length_that_is_none(folder, length):
    change(folder / "sentence_bert_config.json", max_seq_length=length)
    refuse(folder, CheckpointError, "sentence_bert_config.json", str(length))


@pytest.mark.parametrize("side", ["up", None, 5, ["left"], ""])
def test_an_unknown_side(folder, side):
    change(folder / "tokenizer_config.json", truncation_side=side)
    refuse(folder, CheckpointError, "tokenizer_config.json", "truncation_side", "left or right")


VALUES = (None, True, 5, -1, 0, 1.5, 1e30, "", "x", [], [1], [[1]], {}, {"a": 1}, "NaN")
MORE_KEYS = ("similarity_fn_name", "quantization", "include_prompt", "pooling_mode", "pad_token_id", "model_max_length")


@pytest.mark.parametrize("name", [name for name in JSON_FILES if name != "modules.json"])
def test_whatever_stands_in_a_file_the_error_is_ours(folder, name):
    file = folder / name
    whole = json.loads(file.read_text(encoding="utf-8"))
    for key in (*whole, *MORE_KEYS):
        for value in VALUES:
            file.write_text(json.dumps({**whole, key: value}), encoding="utf-8")
            try:
                read_checkpoint(folder)
            except AkiDBMLXError as error:
                assert "\n" not in str(error)
            except Exception as error:
                raise AssertionError(f"{name}: {key} = {value!r}") from error


@pytest.mark.parametrize("value", VALUES)
def test_whatever_stands_in_the_list_of_modules_the_error_is_ours(folder, value):
    file = folder / "modules.json"
    whole = file.read_text(encoding="utf-8")
    for place in range(4):
        for key in ("type", "path"):
            entries = json.loads(whole)
            entries[place][key] = value
            file.write_text(json.dumps(entries), encoding="utf-8")
            try:
                read_checkpoint(folder)
            except AkiDBMLXError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("sentence_bert_config.json", "max_seq_length", 1.5),
        ("sentence_bert_config.json", "max_seq_length", True),
        ("sentence_bert_config.json", "do_lower_case", "false"),
        ("1_Pooling/config.json", "include_prompt", "false"),
        ("2_Dense/config.json", "bias", "false"),
        ("2_Dense/config.json", "in_features", 16.5),
        ("2_Dense/config.json", "use_residual", "no"),
    ],
)
def test_a_value_of_another_type_is_not_bent(folder, name, key, value):
    change(folder / name, **{key: value})
    refuse(folder, CheckpointError, name, key)


OTHER_FORMATS = {
    "model-Q8_0.gguf": "GGUF",
    "onnx/model.onnx": "ONNX",
    "openvino/openvino_model.xml": "OpenVINO",
    "tf_model.h5": "TensorFlow",
    "flax_model.msgpack": "Flax",
    "weights.npz": "npz",
    "weights.00.safetensors": "mlx_lm.convert",
    "model-00001-of-00002.safetensors": "index.json",
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_other_programs_weights_are_named(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"GGUF")
    refuse(folder, CheckpointError, name, OTHER_FORMATS[name])


@pytest.mark.parametrize("name", ["model-Q8_0.gguf", "adapter_config.json"])
def test_a_folder_that_holds_no_checkpoint_but_something_else(tmp_path, name):
    (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=f"neither config.json nor modules.json; {name} holds"):
        resolve(str(tmp_path))


def test_a_file_of_another_program(tmp_path):
    (tmp_path / "sha256-0123").write_bytes(b"GGUF and more")
    with pytest.raises(CheckpointError, match=r"is a file; it holds weights in GGUF"):
        resolve(str(tmp_path / "sha256-0123"))


@pytest.mark.parametrize("name", ["model.safetensors", "2_Dense/model.safetensors"])
def test_a_pointer_that_git_left(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CheckpointError, match=rf"{name} .*git lfs pull"):
        Embedder.load(folder)


def test_an_adapter_beside_the_weights(folder):
    """The reference applies it."""
    (folder / "adapter_config.json").write_text("{}")
    refuse(folder, UnsupportedModelError, "adapter_config.json", "merge them first")


@pytest.mark.parametrize("key", ["module_input_name", "module_output_name"])
@pytest.mark.parametrize("module", ["1_Pooling", "2_Dense", "3_Normalize"])
def test_modules_that_read_or_write_something_else(folder, module, key):
    assert module in (folder / "modules.json").read_text()
    file = folder / module / "config.json"
    file.parent.mkdir(exist_ok=True)
    said = json.loads(file.read_text()) if file.exists() else {}
    usual = "token_embeddings" if module == "1_Pooling" and key == "module_input_name" else "sentence_embedding"
    file.write_text(json.dumps(said | {key: usual}))
    read_checkpoint(folder)
    file.write_text(json.dumps(said | {key: "unit"}))
    refuse(folder, UnsupportedModelError, f"{module}/config.json", key, "unit")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "1_Pooling/config.json"])
def test_a_pointer_in_place_of_a_small_file(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refuse(folder, CheckpointError, name, "git lfs pull")


@pytest.mark.parametrize(
    "odd",
    [{"auto_map": ["a"]}, {"auto_map": "x"}, {"vocab_size": -1}, {"hidden_size": None}, {"num_attention_heads": []}],
)
def test_odd_values_of_config_are_one_clear_error(folder, odd):
    change(folder / "config.json", **odd)
    with pytest.raises(AkiDBMLXError):
        make_backbone(read_checkpoint(folder).config)


@pytest.mark.parametrize("size", [0, -1])
def test_a_dense_layer_of_no_size(folder, size):
    change(folder / "2_Dense" / "config.json", in_features=size)
    refuse(folder, CheckpointError, "2_Dense/config.json", "at least 1")


@pytest.mark.checkpoint("qwen3-embedding")
@pytest.mark.parametrize("part", [{"single": -1}, {"single": [None]}, {"special_tokens": None}])
def test_an_odd_post_processor_is_the_tokenizers_to_refuse(folder, part):
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    template = next(
        p for p in tokenizer["post_processor"].get("processors", [tokenizer["post_processor"]]) if "single" in p
    )
    template |= part
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        Embedder.load(folder)
