"""What `convert` writes: it loads, equals the floats it stands for, keeps every other file; and what it refuses."""

import errno
import filecmp
import json
import re
import shutil
from unittest import mock

import mlx.core as mx
import numpy as np
import pytest

from akidb_mlx import Embedder, HybridEmbedder, MultiVectorEmbedder, Reranker, SparseEmbedder
from akidb_mlx.checkpoint.facts import read_checkpoint
from akidb_mlx.checkpoint.hub import Resolved
from akidb_mlx.checkpoint.kinds import kind_of
from akidb_mlx.convert import MIXES, MODES, convert
from akidb_mlx.convert import conversion as conversion_module
from akidb_mlx.convert.folder import write_readme
from akidb_mlx.errors import BackendError, ConfigError, ModelNotFoundError, UnsupportedModelError
from akidb_mlx.model.architectures import ARCHITECTURES
from support.checkpoints import MINILM, REFERENCE
from support.comparison import assert_close, cosines
from support.joint import make_joint_folder
from support.packed import dequantise

TEXTS = ["a", "The cat sits on the mat", "Interest rates rose for the third time this year.", "東京の天気は晴れです。"]
FACES = {
    "embedder": (Embedder, lambda face: face.encode_document(TEXTS)),
    "reranker": (Reranker, lambda face: face.predict([(TEXTS[1], text) for text in TEXTS])),
    "sparse": (SparseEmbedder, lambda face: face.encode_document(TEXTS).to_dense()),
    "multi_vector": (MultiVectorEmbedder, lambda face: face.encode_document(TEXTS).vectors),
}
# Layers that groups of 32 divide: one of each architecture that has such a tiny checkpoint.
# fmt: off
WIDE = [
    "cohere", "embeddinggemma", "embeddinggemma-folded", "ernie4_5", "eurobert-mean", "gemma-mean",
    "gemma2-last-token", "gemma3-layer-types", "glm", "glm4", "granite", "heads-128-ministral3", "heads-128-pplx",
    "heads-128-qwen3-moe", "heads-64-albert", "heads-64-bert", "heads-64-deberta-v2", "heads-64-electra",
    "heads-64-ernie", "heads-64-jina-v2", "heads-64-mixtral", "heads-64-modernbert", "heads-64-mpnet",
    "heads-64-nomic-moe", "helium", "hunyuan", "llama-bidirec-published", "llama-linear", "mistral-e5",
    "multi_vector/heads-64", "multi_vector/modernbert", "nemotron", "olmo", "olmo2", "phi3", "qwen2-causal-lm",
    "qwen3-embedding", "seed_oss", "smollm3", "stablelm",
]
# fmt: on
# The others, and the other kinds: only groups of 16 divide theirs, which is nvfp4.
# fmt: off
NARROW = [
    "bert-float8", "bert-gamma-beta", "camembert-dense", "deberta-mean", "distilbert-mean", "gte-arctic",
    "gte-base-en", "gte-multilingual", "heads-64-ernie4_5-moe", "heads-64-granitemoe", "heads-64-lfm2",
    "heads-64-olmoe", "heads-64-qwen2-moe", "ministral3-bidirec", "mpnet-mean", "mt5-cls", "multi_vector/pylate",
    "multi_vector/qwen3", "multi_vector/stanford", "multi_vector/two-dense", "nomic-published",
    "nomic-transformers-5", "rerankers/albert", "rerankers/bert", "rerankers/cohere-reranker",
    "rerankers/deberta-v2", "rerankers/eurobert-late", "rerankers/gemma3-reranker",
    "rerankers/gte-multilingual-reranker", "rerankers/modernbert-dense-scores", "rerankers/nomic-bert",
    "rerankers/qwen3-classifier", "rerankers/qwen3-reranker", "rerankers/qwen3-reranker-untied",
    "rerankers/xlm-roberta-saved", "roberta-mean", "sparse/bert-autoencoder", "sparse/bert-max",
    "sparse/bert-untied", "sparse/distilbert", "sparse/gte-published", "sparse/modernbert", "t5-sentence",
    "tasks/jina-v3-hf", "umt5-mean", "xlm-roberta-cls",
    "apertus", "cohere2", "exaone4", "gpt_neox", "gptj-weighted-mean", "internlm3", "olmo3", "phi", "starcoder2",
]
# fmt: on
SETTINGS = {
    "8 bit": {"group_size": 32},
    "4 bit": {"bits": 4, "group_size": 32},
    "4 bit edges8": {"bits": 4, "group_size": 32, "mix": "edges8"},
    "3 bit layers8": {"bits": 3, "group_size": 32, "mix": "layers8"},
    "mxfp4 edges8": {"mode": "mxfp4", "mix": "edges8"},
    "mxfp8": {"mode": "mxfp8"},
    "nvfp4": {"mode": "nvfp4"},
}
CASES = [
    *((name, "4 bit edges8") for name in WIDE),
    *((name, setting) for name in ("heads-64-bert", "qwen3-embedding") for setting in SETTINGS),
    *((name, "nvfp4") for name in NARROW),
]


def rows(folder):
    """In float32 on the CPU, as the floats that packed weights stand for."""
    kind, run = FACES[kind_of(folder)]
    with kind.load(folder, device="cpu", dtype="float32") as face:
        return run(face)


def stored(folder):
    return {key: weight for file in folder.glob("*.safetensors") for key, weight in mx.load(str(file)).items()}


def beside(folder):
    """Files but for the weights, config.json and README.md."""
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    own = ("config.json", "README.md")
    return sorted(file for file in files if file.name not in own and not re.match(r"(pytorch_)?model\W", file.name))


# A quarter of them in each default run, all in `make test-all`.
EACH_RUN = [
    case if place % 4 == 0 else pytest.param(*case, marks=pytest.mark.slow)
    for place, case in enumerate(dict.fromkeys(CASES))
]


@pytest.mark.parametrize(("name", "setting"), EACH_RUN)
def test_it_equals_the_floats_that_it_stands_for(tmp_path, name, setting):
    source = REFERENCE / name
    done = convert(source, tmp_path / "packed", **SETTINGS[setting])
    assert done.kind == kind_of(source) and done.layers > 0
    weights = stored(done.path)
    assert sum(key.endswith(".scales") for key in weights) == done.layers
    assert_close(rows(done.path), rows(dequantise(done.path, tmp_path / "floats")), 1e-5)


def test_every_architecture_is_among_them():
    """But for static models, those whose tiny checkpoints no group divides or are of another name, and two refused.

    GPT-2's weights lie with inputs first; LFM2's experts are read one by one.
    """
    models = {json.loads((REFERENCE / name / "config.json").read_text())["model_type"] for name in (*WIDE, *NARROW)}
    others = {"embedding_gemma2", "embedding_gemma2_text", "gpt2", "jina_bert", "lfm2_moe", "static"}
    assert ARCHITECTURES.keys() - models == others


@pytest.mark.parametrize(("setting", "least"), [("8 bit", 0.999), ("mxfp8", 0.99), ("4 bit edges8", 0.9)])
@pytest.mark.parametrize("name", ["heads-64-bert", "qwen3-embedding"])
def test_it_is_near_the_reference(tmp_path, name, setting, least):
    """Random weights are no easier to pack than noise: cosines with sentence-transformers' float32 rows."""
    facts = json.loads((REFERENCE / name / "reference.json").read_text(encoding="utf-8"))
    convert(REFERENCE / name, tmp_path / "packed", **SETTINGS[setting])
    with Embedder.load(tmp_path / "packed", device="cpu", dtype="float32") as embedder:
        found = embedder.encode(facts["texts"])
    assert cosines(found, np.load(REFERENCE / name / "reference.npz")["embeddings"]).min() >= least


@pytest.mark.parametrize("bits", [8, 4])
def test_each_number_is_within_a_step_of_what_it_was(tmp_path, bits):
    """By hand from the packed words, whose scales and biases MLX chooses so that zero stays zero."""
    convert(REFERENCE / "heads-64-bert", tmp_path / "packed", bits=bits, group_size=32)
    before, after = stored(REFERENCE / "heads-64-bert"), stored(tmp_path / "packed")
    packed = [key.removesuffix(".scales") for key in after if key.endswith(".scales")]
    assert packed
    for layer in packed:
        words = np.array(after[f"{layer}.weight"])
        codes = (words[..., None] >> (np.arange(32 // bits, dtype=np.uint32) * bits)) & (2**bits - 1)
        scales, biases = (np.array(after[f"{layer}.{part}"].astype(mx.float32)) for part in ("scales", "biases"))
        numbers = codes.reshape(*scales.shape, 32) * scales[..., None] + biases[..., None]
        floats = np.array(before[f"{layer}.weight"].astype(mx.float32)).reshape(numbers.shape)
        assert (np.abs(numbers - floats) <= 1.05 * np.abs(scales[..., None])).all()


@pytest.mark.parametrize(
    "name",
    [
        "bert-dense",
        "qwen3-chat",
        "rerankers/bert-saved",
        "sparse/bert-idf-file",
        "multi_vector/two-dense",
    ],
)
def test_every_other_file_stays_as_it_is(tmp_path, name):
    source = REFERENCE / name
    done = convert(source, tmp_path / "packed", mode="nvfp4")
    if (source / "config.json").exists():
        config = json.loads((done.path / "config.json").read_text())
        assert config.pop("quantization") == config.pop("quantization_config")
        assert config == json.loads((source / "config.json").read_text())
    assert beside(source) == beside(done.path) != []
    assert {file.parent for file in source.rglob("*.safetensors")} == {
        source / file.parent.relative_to(done.path) for file in done.path.rglob("*.safetensors")
    }
    assert filecmp.cmpfiles(source, done.path, map(str, beside(source)), shallow=False)[1:] == ([], [])


def test_a_model_of_three_heads(tmp_path):
    folder = make_joint_folder(tmp_path)
    convert(folder, tmp_path / "packed", mode="nvfp4")
    with HybridEmbedder.load(tmp_path / "packed") as packed, HybridEmbedder.load(folder) as whole:
        found, expected = packed.encode_document(TEXTS), whole.encode_document(TEXTS)
    assert cosines(found.dense, expected.dense).min() > 0.8
    assert cosines(found.sparse.to_dense(), expected.sparse.to_dense()).min() > 0.8
    assert cosines(found.multi.vectors, expected.multi.vectors).min() > 0.5


def test_a_transformer_in_a_folder_of_its_own(tmp_path):
    convert(REFERENCE / "bert-subfolder", tmp_path / "packed", mode="nvfp4")
    assert "quantization" in json.loads((tmp_path / "packed/0_Transformer/config.json").read_text())
    assert not list((tmp_path / "packed").glob("*.safetensors"))
    with Embedder.load(tmp_path / "packed") as embedder:
        assert embedder.info()["quantization"]["mode"] == "nvfp4"


def test_a_fingerprint_of_its_own(tmp_path):
    for name, setting in (("a", "8 bit"), ("b", "8 bit"), ("c", "4 bit")):
        convert(REFERENCE / "qwen3-embedding", tmp_path / name, **SETTINGS[setting])
    prints = []
    for folder in (REFERENCE / "qwen3-embedding", *(tmp_path / name for name in "abc")):
        with Embedder.load(folder) as embedder:
            prints.append(embedder.fingerprint)
    assert prints[1] == prints[2] and len(set(prints)) == 3


def test_what_stays_in_floats(tmp_path):
    convert(REFERENCE / "embeddinggemma-folded", tmp_path / "dense", group_size=32)
    convert(REFERENCE / "rerankers/bert", tmp_path / "classifier", mode="nvfp4")
    convert(REFERENCE / "sparse/bert-max", tmp_path / "words", mode="nvfp4")
    kept = stored(tmp_path / "dense").keys()
    assert {"dense.0.weight", "dense.1.weight"} <= kept
    assert not {"dense.0.scales", "dense.1.scales"} & kept and "model.embed_tokens.scales" in kept
    kept = stored(tmp_path / "classifier").keys()
    assert "bert.embeddings.word_embeddings.scales" in kept and "classifier.weight" in kept
    assert not {"classifier.scales", "bert.pooler.dense.scales", "bert.embeddings.position_embeddings.scales"} & kept
    assert "bert.embeddings.word_embeddings.scales" not in stored(tmp_path / "words")


def test_a_mix_packs_the_edges_with_8_bits(tmp_path):
    convert(REFERENCE / "qwen3-embedding", tmp_path / "packed", bits=3, group_size=32, mix="edges8")
    said = json.loads((tmp_path / "packed/config.json").read_text())["quantization"]
    eight = {"group_size": 32, "bits": 8, "mode": "affine"}
    count = json.loads((tmp_path / "packed/config.json").read_text())["num_hidden_layers"]
    assert said["model.embed_tokens"] == said["model.layers.0.mlp.up_proj"] == eight
    assert said[f"model.layers.{count - 1}.self_attn.q_proj"] == eight
    assert not [
        name
        for name in said
        if re.search(r"layers\.(\d+)", name) and f"layers.{count - 1}" not in name and "layers.0" not in name
    ]


def test_the_dtype_of_what_is_not_packed(tmp_path):
    convert(REFERENCE / "heads-64-bert", tmp_path / "packed", group_size=32, stored_dtype="bfloat16")
    weights = stored(tmp_path / "packed")
    assert {str(weight.dtype) for weight in weights.values()} <= {
        "mlx.core.bfloat16",
        "mlx.core.uint32",
        "mlx.core.int64",
    }
    with Embedder.load(tmp_path / "packed") as embedder:
        assert embedder.info()["stored_dtype"] == "bfloat16"


def test_shards(tmp_path, monkeypatch):
    convert(REFERENCE / "qwen3-embedding", tmp_path / "whole", group_size=32)
    monkeypatch.setattr(conversion_module, "_SHARD", "20KB")
    convert(REFERENCE / "qwen3-embedding", tmp_path / "shards", group_size=32)
    names = sorted(file.name for file in (tmp_path / "shards").glob("model*"))
    assert names[0].startswith("model-00001-of-") and names[-1] == "model.safetensors.index.json"
    assert_close(rows(tmp_path / "shards"), rows(tmp_path / "whole"), 1e-6)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("gemma2-causal-lm", "4 bit edges8"),
        ("mistral-e5", "8 bit"),
        ("qwen2-causal-lm", "8 bit"),
        ("qwen3-embedding", "mxfp8"),
    ],
)
def test_mlx_lm_loads_a_decoder(tmp_path, name, setting):
    """Its own loader, on its packed layers; a file without a language model's head is loaded without one."""
    with mock.patch("resource.setrlimit"):  # its import lowers the limit of open files for good
        from mlx_lm import utils

    convert(REFERENCE / name, tmp_path / "packed", **SETTINGS[setting])
    config = json.loads((tmp_path / "packed/config.json").read_text())
    said = {"rope_theta": config["rope_theta"]} if "rope_theta" in config else config.get("rope_parameters") or {}
    said = {"rope_theta": said.get("rope_theta", 10000.0), "rope_scaling": None}
    model, _ = utils.load_model(tmp_path / "packed", strict=False, model_config=said)
    facts = json.loads((REFERENCE / name / "reference.json").read_text(encoding="utf-8"))
    with Embedder.load(tmp_path / "packed", dtype="float32", normalize=True, pooling="last_token") as embedder:
        ours = embedder.encode(facts["texts"])
        token_ids = [encoding.token_ids for encoding in embedder._path.encoder.encode(facts["texts"], "").encodings]
    model.set_dtype(mx.float32)
    theirs = np.stack([np.array(model.model(mx.array([ids.tolist()]))[0, -1]) for ids in token_ids])
    assert cosines(ours, theirs).min() > 0.99999


def test_mlx_lm_loads_a_mixture(tmp_path):
    """All experts of a layer in one array by its name; of the files it ignores too much for a comparison with ours."""
    with mock.patch("resource.setrlimit"):
        from mlx_lm import utils

    convert(REFERENCE / "mixtral-causal-lm", tmp_path / "packed", **SETTINGS["4 bit edges8"])
    folders = [tmp_path / "packed", dequantise(tmp_path / "packed", tmp_path / "floats")]
    states = []
    for folder in folders:
        model, _ = utils.load_model(folder, strict=False, model_config={"rope_theta": 10000.0, "rope_scaling": None})
        model.set_dtype(mx.float32)
        states.append(np.array(model.model(mx.array([[5, 6, 7, 8]]))[0]))
        packed = [layer for _, layer in model.named_modules() if type(layer).__name__ == "QuantizedSwitchLinear"]
        assert bool(packed) is (folder == folders[0])
    assert cosines(*states).min() > 0.99999


# ── the README ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("readme", "front"),
    [
        (None, ""),
        ("# A model\n", ""),
        ("---\nlicense: mit\n---\n# A model\n", "license: mit\n"),
        ("---\nbase_model: other/one\nlicense: mit\n---\n# A model\n", "license: mit\n"),
        (
            "---\nbase_model:\n- other/one\n- a/third\nbase_model_relation: finetune\nlicense: mit\n---\n",
            "license: mit\n",
        ),
    ],
)
def test_the_readme_names_the_origin(tmp_path, readme, front):
    if readme is not None:
        (tmp_path / "README.md").write_text(readme)
    write_readme(tmp_path, "Qwen/Qwen3-Embedding-0.6B", "abc", "4 bit")
    found = (tmp_path / "README.md").read_text()
    lines = f"{front}base_model: Qwen/Qwen3-Embedding-0.6B\nbase_model_relation: quantized\n"
    assert found.startswith(f"---\n{lines}---\n") and "(revision abc): 4 bit." in found
    assert found.count("---\n") == 2 and "other/one" not in found


def test_the_readme_of_a_folder_keeps_its_base_model(tmp_path):
    shutil.copytree(REFERENCE / "heads-64-bert", tmp_path / "model")
    (tmp_path / "model/README.md").write_text("---\nbase_model: us/ours\n---\n# Ours\n")
    convert(tmp_path / "model", tmp_path / "packed", group_size=32)
    found = (tmp_path / "packed/README.md").read_text()
    assert found.startswith("---\nbase_model: us/ours\n---\n# Ours\n") and "from `model`: 8 bit affine" in found


# ── what is refused leaves nothing ───────────────────────────────────────────────────────────────────


def refused(error, pattern, folder, source="heads-64-bert", out="packed", **options):
    before = sorted(folder.rglob("*"))
    with pytest.raises(error, match=pattern):
        convert(REFERENCE / source, folder / out, **{"group_size": 32, **options})
    assert sorted(folder.rglob("*")) == before


def test_weights_that_are_packed_already(tmp_path):
    refused(
        UnsupportedModelError, r"config\.json: the weights are packed already", tmp_path, "qwen3-embedding-4bit-dwq"
    )


def test_stacked_adapters(tmp_path):
    refused(UnsupportedModelError, "a stack of adapters lies over each layer", tmp_path, "tasks/jina-v3")


@pytest.mark.parametrize("name", ["model2vec", "static-root"])
def test_static_models(tmp_path, name):
    refused(UnsupportedModelError, "a static model is one table", tmp_path, name)


def test_groups_that_do_not_divide(tmp_path):
    refused(
        UnsupportedModelError,
        r"word_embeddings\.weight has 16 inputs, which groups of 32 do not divide .*no group size|word_embeddings",
        tmp_path,
        "bert-mean",
    )
    refused(UnsupportedModelError, r"take 8 bit affine in groups of 32 or 8 bit mxfp8", tmp_path, group_size=128)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"bits": 7}, "MLX packs no 7 bit affine in groups of 32; of affine bits may be 1, 2, 3, 4, 5, 6, 8"),
        ({"group_size": 16}, "group_size 32, 64, 128"),
        ({"mode": "mxfp4", "bits": 8}, "of mxfp4 bits may be 4, and group_size 32"),
        ({"mode": "int4"}, f"mode is 'int4'; it may be {', '.join(MODES)}"),
        ({"mix": "best"}, f"mix is 'best'; it may be {', '.join(MIXES)}"),
        ({"stored_dtype": "float8"}, "stored_dtype is 'float8'"),
        ({"out": "nowhere/packed"}, "the folder .*nowhere of packed does not exist"),
    ],
)
def test_settings_that_cannot_be(tmp_path, options, pattern):
    refused(ConfigError, pattern, tmp_path, **options)


def test_a_model_that_is_none(tmp_path):
    refused(ModelNotFoundError, "no such folder", tmp_path, "nothing-of-that-name")


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_a_place_that_is_taken(tmp_path, kind):
    place = tmp_path / "packed"
    place.mkdir() if kind == "folder" else place.touch() if kind == "file" else place.symlink_to(tmp_path / "x")
    refused(ConfigError, "packed exists", tmp_path)


def test_a_place_within_the_model(tmp_path):
    shutil.copytree(REFERENCE / "heads-64-bert", tmp_path / "model")
    refused(ConfigError, "own folder", tmp_path, tmp_path / "model", "model/packed")


def test_a_disk_that_is_too_small(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion_module, "free_bytes", lambda folder: 2**20)
    refused(BackendError, r"has 0\.00 GB free, and the conversion takes", tmp_path)


def test_a_disk_that_fills_up(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(conversion_module, "write_config", full)
    refused(OSError, "No space left", tmp_path)


def test_facts_that_only_the_name_on_the_hub_says(tmp_path, monkeypatch):
    """A folder knows its family by base_model; where that does not come along, the vectors would be others."""
    source = tmp_path / "snapshot"
    shutil.copytree(REFERENCE / "heads-64-bert", source)
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (source / name).unlink(missing_ok=True)
    found = Resolved(source, "intfloat/e5-small-v2", "a" * 40)
    monkeypatch.setattr(conversion_module, "resolve", lambda *_: found)
    convert("intfloat/e5-small-v2", tmp_path / "packed", group_size=32)
    before = read_checkpoint(source, "intfloat/e5-small-v2")
    after = read_checkpoint(tmp_path / "packed")
    assert before.prompts == after.prompts != {} and before.pooling == after.pooling == ("mean",)
    monkeypatch.setattr(conversion_module, "write_readme", lambda *_: None)
    refused(UnsupportedModelError, "something else of prompts, pooling, normalize", tmp_path, out="other")


# ── the real one ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "least"),
    [({"bits": 8}, 0.9996), ({"bits": 4}, 0.93), ({"bits": 4, "group_size": 32, "mix": "edges8"}, 0.95)],
)
def test_minilm(tmp_path, options, least):
    convert(MINILM, tmp_path / "packed", **options)
    with Embedder.load(MINILM) as whole, Embedder.load(tmp_path / "packed") as packed:
        found = cosines(whole.encode(TEXTS), packed.encode(TEXTS)).min()
    assert least <= found < 0.99999
