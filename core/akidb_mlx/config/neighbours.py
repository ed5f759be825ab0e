"""What other libraries call things: a name that is none here → what to say in its place."""

from collections.abc import Collection
from typing import Final

__all__ = ["advice"]

_QUERY = "say query_prompt"
_DOCUMENT = "say document_prompt"
_OPTIONS = "its entries are arguments of their own here"
_BATCHES = "leave it out, batches are made by tokens (max_batch_tokens)"
_DIMENSION = "say truncate_dim"
_ROWS = "leave it out, rows are NumPy arrays of float32"
_TOKEN = "leave it out and set the variable HF_TOKEN"

# Of sentence-transformers, and of LangChain's and LlamaIndex's classes for it, for Ollama and OpenAI. Advice that names
# an argument counts only for what has that argument.
_ADVICE: Final[dict[str, str]] = {
    "model_kwargs": f"{_OPTIONS}: device, dtype, revision, local_files_only",
    "encode_kwargs": f"{_OPTIONS}: normalize, query_prompt, document_prompt; batches are made by tokens",
    "query_encode_kwargs": "say query_prompt; queries and documents have the checkpoint's own prompts without it",
    "tokenizer_kwargs": f"{_OPTIONS}: max_seq_length",
    "processor_kwargs": f"{_OPTIONS}: max_seq_length",
    "config_kwargs": "leave it out, config.json is read as it is",
    "multi_process": "leave it out, all cores or the GPU are used",
    "parallel_process": "leave it out, all cores or the GPU are used",
    "target_devices": "leave it out, all cores or the GPU are used",
    "num_thread": "leave it out, all cores or the GPU are used",
    "num_gpu": "say device",
    "batch_size": _BATCHES,
    "embed_batch_size": _BATCHES,
    "dimensions": _DIMENSION,
    "dimension": _DIMENSION,
    "output_dimension": _DIMENSION,
    "output_dimensionality": _DIMENSION,
    "trust_remote_code": "leave it out, no code of a checkpoint is ever run here",
    "query_instruction": _QUERY,
    "query_prefix": _QUERY,
    "query_input_type": _QUERY,
    "text_instruction": _DOCUMENT,
    "embed_instruction": _DOCUMENT,
    "document_prefix": _DOCUMENT,
    "passage_prefix": _DOCUMENT,
    "prompts": "say query_prompt and document_prompt",
    "default_prompt_name": "say query_prompt and document_prompt",
    "cache_folder": "say cache_dir",
    "max_length": "say max_seq_length",
    "max_tokens": "say max_seq_length",
    "num_ctx": "say max_seq_length",
    "truncate": "say on_overlong",
    "normalize_embeddings": "say normalize",
    "show_progress_bar": "say show_progress",
    "convert_to_numpy": _ROWS,
    "convert_to_tensor": _ROWS,
    "output_value": _ROWS,
    "torch_dtype": "say dtype",
    "model_dtype": "say dtype",
    "precision": "say dtype",
    "backend": "leave it out, this is MLX",
    "use_fp16": "say dtype",
    "token": _TOKEN,
    "use_auth_token": _TOKEN,
    "hf_token": _TOKEN,
}


def advice(name: str, known: Collection[str]) -> str | None:
    """What to do in place of `name`, where another library has it and an argument that is meant is among `known`."""
    told = _ADVICE.get(name)
    if told is None or name in known:
        return None
    first, _, argument = told.partition(" ")
    if first == "say" and argument.split()[0].strip(";,") not in known:
        return None
    return told
