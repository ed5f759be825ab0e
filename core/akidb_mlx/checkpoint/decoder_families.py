"""The families of decoders that embed, but for Qwen3-Embedding and EmbeddingGemma. No MLX here."""

from akidb_mlx.checkpoint.family import TASK, Family, ids
from akidb_mlx.checkpoint.modules import WHOLE_NUMBERS

__all__ = ["DECODER_FAMILIES"]

_INSTRUCT = f"Instruct: {TASK}\nQuery: "
_BOTH_WAYS = {"is_causal": False}

DECODER_FAMILIES: tuple[Family, ...] = (
    Family(
        "e5-mistral",
        (
            "intfloat/e5-mistral-7b-instruct",
            "Salesforce/SFR-Embedding-2_R",
            "Linq-AI-Research/Linq-Embed-Mistral",
        ),
        "last_token",
        query_prompt=_INSTRUCT,
    ),
    Family(
        "SFR-Embedding-Mistral",
        ("Salesforce/SFR-Embedding-Mistral",),
        "last_token",
        normalize=None,  # its files and its documentation differ
        query_prompt=_INSTRUCT,
    ),
    Family(
        "gte-Qwen2",
        ids("Alibaba-NLP", "gte-Qwen1.5-7B-instruct gte-Qwen2-1.5B-instruct gte-Qwen2-7B-instruct"),
        "last_token",
        query_prompt=_INSTRUCT,
        config=_BOTH_WAYS,  # its own code attends both ways
        tokenizer_appends_end=True,
    ),
    Family(
        "inf-retriever",
        ids("infly", "inf-retriever-v1 inf-retriever-v1-1.5b inf-retriever-v1-pro"),
        "last_token",
        query_prompt=_INSTRUCT,
        tokenizer_appends_end=True,
    ),
    Family(
        "GritLM",
        ("GritLM/GritLM-7B",),
        "mean",
        query_prompt=f"<|user|>\n{TASK}\n<|embed|>\n",
        document_prompt="<|embed|>\n",
        max_seq_length=512,
        include_prompt=False,
        config=_BOTH_WAYS,  # an argument of each call in its authors' package
    ),
    Family(
        "KaLM mini v2",
        (
            *ids("HIT-TMG", "KaLM-embedding-multilingual-mini-instruct-v2"),
            *ids("KaLM-Embedding", "KaLM-embedding-multilingual-mini-instruct-v2.5"),
        ),
        "mean",
        query_prompt=f"Instruct: {TASK} \n Query: ",  # spaces around the line's end
        max_seq_length=512,
        matryoshka=(64, 128, 256, 512, 896),
        config=_BOTH_WAYS,
    ),
    Family(
        "voyage-4-nano",
        ("voyageai/voyage-4-nano", "MongoDB/voyage-4-nano"),
        "mean",
        query_prompt="Represent the query for retrieving supporting documents: ",
        document_prompt="Represent the document for retrieval: ",
        max_seq_length=32768,
        matryoshka=(256, 512, 1024, 2048),
    ),
    Family(
        "pplx-embed-v1",
        ids("perplexity-ai", "pplx-embed-v1-0.6b pplx-embed-v1-4b"),
        "mean",
        normalize=False,
        max_seq_length=32768,
        output=WHOLE_NUMBERS,
    ),
    Family(
        "Nemotron-3-Embed",
        ids("nvidia", "Nemotron-3-Embed-1B-BF16 Nemotron-3-Embed-8B-BF16"),
        "mean",
        query_prompt="query: ",
        document_prompt="passage: ",
        max_seq_length=32768,
    ),
    Family(
        "llama-nemotron-embed",
        ids("nvidia", "llama-nemotron-embed-1b-v2 llama-3.2-nv-embedqa-1b-v2"),
        "mean",
        query_prompt="query: ",
        document_prompt="passage: ",
        max_seq_length=8192,
        matryoshka=(384, 512, 768, 1024, 2048),
    ),
    Family(
        "llama-embed-nemotron",
        ids("nvidia", "llama-embed-nemotron-8b"),
        "mean",
        query_prompt=_INSTRUCT,
        max_seq_length=32768,
    ),
    Family(
        "Octen",
        ids("Octen", "Octen-Embedding-0.6B Octen-Embedding-4B Octen-Embedding-8B"),
        "last_token",
        query_prompt=f"Instruct: {TASK}\nQuery:",  # no space at the end
        document_prompt=" ",
    ),
    Family(
        "harrier",
        ids("microsoft", "harrier-oss-v1-270m harrier-oss-v1-0.6b harrier-oss-v1-27b"),
        "last_token",
        query_prompt=_INSTRUCT,
    ),
    Family(
        "F2LLM",
        (
            *ids("codefuse-ai", "F2LLM-0.6B F2LLM-1.7B F2LLM-4B"),
            *ids(
                "codefuse-ai",
                "F2LLM-v2-80M F2LLM-v2-160M F2LLM-v2-330M F2LLM-v2-0.6B F2LLM-v2-1.7B F2LLM-v2-4B F2LLM-v2-8B "
                "F2LLM-v2-14B",
            ),
        ),
        "last_token",
        query_prompt=_INSTRUCT,
        max_seq_length=8192,
    ),
)
