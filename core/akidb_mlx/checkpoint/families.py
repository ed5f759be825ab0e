"""What must be known of a model when its files are silent, as stripped conversions are: a small table.

A row is found by the model's exact Hub id, by one that the README names as `base_model`, or by facts in the
files; never by a part of a name. No MLX here.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from akidb_mlx.checkpoint.decoder_families import DECODER_FAMILIES
from akidb_mlx.checkpoint.family import TASK, Family, ids

__all__ = ["FAMILIES", "Family", "find_family"]

Config = Mapping[str, Any]
_BGE_QUERY = "Represent this sentence for searching relevant passages: "


QWEN3 = Family(
    "Qwen3-Embedding",
    ids("Qwen", "Qwen3-Embedding-0.6B Qwen3-Embedding-4B Qwen3-Embedding-8B"),
    "last_token",
    query_prompt=f"Instruct: {TASK}\nQuery:",  # no space at the end
    matryoshka=(32, 64, 128, 256, 512, 768, 1024, 2560, 4096),  # any from 32 up to the full width
)
EMBEDDING_GEMMA = Family(
    "EmbeddingGemma",
    ids(
        "google",
        "embeddinggemma-300m embeddinggemma-300m-qat-q4_0-unquantized embeddinggemma-300m-qat-q8_0-unquantized",
    ),
    "mean",
    query_prompt="task: search result | query: ",
    document_prompt="title: none | text: ",
    max_seq_length=2048,
    dense=2,
    matryoshka=(128, 256, 512, 768),
)
FAMILIES: tuple[Family, ...] = (
    QWEN3,
    EMBEDDING_GEMMA,
    Family(
        "EmbeddingGemma 2",
        ids("google", "embeddinggemma-2"),
        "mean",
        query_prompt="task: search result | query: ",
        document_prompt="title: none | text: ",
        matryoshka=(128, 256, 512, 768),
    ),
    Family(
        "LFM2.5-Embedding",
        ("LiquidAI/LFM2.5-Embedding-350M",),
        "cls",
        normalize=False,
        query_prompt="query: ",
        document_prompt="document: ",
        max_seq_length=512,
    ),
    Family(
        "bge-en", ids("BAAI", "bge-small-en-v1.5 bge-base-en-v1.5 bge-large-en-v1.5"), "cls", query_prompt=_BGE_QUERY
    ),
    Family(
        "bge-zh",
        ids("BAAI", "bge-small-zh-v1.5 bge-base-zh-v1.5 bge-large-zh-v1.5"),
        "cls",
        query_prompt="为这个句子生成表示以用于检索相关文章：",
    ),
    Family("bge-m3", ("BAAI/bge-m3",), "cls"),
    Family("mxbai", ("mixedbread-ai/mxbai-embed-large-v1",), "cls", normalize=None, query_prompt=_BGE_QUERY),
    Family(
        "arctic v1",
        ids(
            "Snowflake",
            "snowflake-arctic-embed-xs snowflake-arctic-embed-s snowflake-arctic-embed-m snowflake-arctic-embed-l",
        ),
        "cls",
        query_prompt=_BGE_QUERY,
    ),
    Family(
        "arctic v1.5",
        ("Snowflake/snowflake-arctic-embed-m-v1.5",),
        "cls",
        query_prompt=_BGE_QUERY,
        matryoshka=(256, 768),
    ),
    Family(
        "arctic v2",
        ids("Snowflake", "snowflake-arctic-embed-m-v2.0 snowflake-arctic-embed-l-v2.0"),
        "cls",
        query_prompt="query: ",
        matryoshka=(256, 768, 1024),
    ),
    Family(
        "e5",
        ids(
            "intfloat",
            "e5-small-v2 e5-base-v2 e5-large-v2 multilingual-e5-small multilingual-e5-base multilingual-e5-large",
        ),
        "mean",
        query_prompt="query: ",
        document_prompt="passage: ",
        max_seq_length=512,
    ),
    Family(
        "e5-instruct",
        ("intfloat/multilingual-e5-large-instruct",),
        "mean",
        query_prompt=f"Instruct: {TASK}\nQuery: ",
        max_seq_length=512,
    ),
    *DECODER_FAMILIES,
    Family(
        "gte",
        ids("Alibaba-NLP", "gte-base-en-v1.5 gte-large-en-v1.5 gte-multilingual-base gte-modernbert-base"),
        "cls",
        normalize=None,
        max_seq_length=8192,
    ),
    Family(
        "nomic v1",
        ids("nomic-ai", "nomic-embed-text-v1"),
        "mean",
        query_prompt="search_query: ",
        document_prompt="search_document: ",
        max_seq_length=8192,
    ),
    Family(
        "nomic v1.5",
        ids("nomic-ai", "nomic-embed-text-v1.5"),
        "mean",
        normalize=None,
        query_prompt="search_query: ",
        document_prompt="search_document: ",
        max_seq_length=8192,
        matryoshka=(64, 128, 256, 512, 768),
        truncation_layer_norm=True,
    ),
    Family(
        "nomic v2",
        ("nomic-ai/nomic-embed-text-v2-moe",),
        "mean",
        query_prompt="search_query: ",
        document_prompt="search_document: ",
        max_seq_length=512,
        matryoshka=(256, 768),
    ),
    Family(
        "modernbert-embed",
        ids("nomic-ai", "modernbert-embed-base"),
        "mean",
        query_prompt="search_query: ",
        document_prompt="search_document: ",
        max_seq_length=8192,
        matryoshka=(256, 768),
    ),
    Family(
        "sentence-t5",
        ids("sentence-transformers", "sentence-t5-base sentence-t5-large sentence-t5-xl sentence-t5-xxl"),
        "mean",
        max_seq_length=256,
        dense=1,
    ),
    Family(
        "gtr-t5",
        ids("sentence-transformers", "gtr-t5-base gtr-t5-large gtr-t5-xl gtr-t5-xxl"),
        "mean",
        max_seq_length=512,
        dense=1,
    ),
    Family(
        "instructor",
        ids("hkunlp", "instructor-base instructor-large instructor-xl"),
        "mean",
        max_seq_length=512,
        include_prompt=False,  # which the reference knows by these names too
        dense=1,
    ),
    Family(
        "Jina v3",
        ids("jinaai", "jina-embeddings-v3 jina-embeddings-v3-hf"),
        "mean",
        matryoshka=(32, 64, 128, 256, 512, 768, 1024),
    ),
    Family(
        "Jina v5",
        ids("jinaai", "jina-embeddings-v5-text-nano jina-embeddings-v5-text-small"),
        "last_token",
        matryoshka=(32, 64, 128, 256, 512, 768, 1024),
    ),
    Family("all-MiniLM-L6", ("sentence-transformers/all-MiniLM-L6-v2",), "mean", max_seq_length=256),
    Family("all-mpnet", ("sentence-transformers/all-mpnet-base-v2",), "mean", max_seq_length=384),
)
_BY_ID = {name.casefold(): family for family in FAMILIES for name in family.ids}
_QWEN3_END = 151643  # <|endoftext|>, which only the embedders' tokenizer appends


def find_family(
    names: Iterable[tuple[str, str]], config: Config, read_tokenizer: Callable[[], Mapping[str, Any]]
) -> tuple[Family, str] | None:
    """A row and the reason for it; `names` are (Hub id, where it was said), `read_tokenizer` reads tokenizer.json."""
    for name, where in names:
        family = _BY_ID.get(name.casefold())
        if family is not None:
            return family, f"{family.name}, {where}"
    if config.get("model_type") == "gemma3_text" and config.get("use_bidirectional_attention"):
        return EMBEDDING_GEMMA, f"{EMBEDDING_GEMMA.name}, config.json: use_bidirectional_attention"
    if config.get("model_type") == "qwen3" and _QWEN3_END in _appended(read_tokenizer().get("post_processor")):
        return QWEN3, f"{QWEN3.name}, tokenizer.json: the post-processor appends {_QWEN3_END}"
    return None


def _appended(post_processor: Any) -> list[int]:
    """Ids of the special tokens that a post-processor puts after the text."""
    if not isinstance(post_processor, Mapping):
        return []
    if post_processor.get("type") == "Sequence":
        return [token for part in post_processor.get("processors", []) for token in _appended(part)]
    appended: list[int] = []
    try:
        for step in post_processor.get("single") or []:
            if "Sequence" in step:
                appended = []
            elif "SpecialToken" in step:
                appended += post_processor["special_tokens"][step["SpecialToken"]["id"]]["ids"]
    except (AttributeError, KeyError, TypeError):  # the tokenizer says what is wrong with it
        return []
    return appended
