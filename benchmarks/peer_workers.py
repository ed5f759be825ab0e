"""The peers of peers.py: each loads a model and embeds, in its own process, by the Python of its own environment.

Needs nothing of this project but for `ours` and the adapters.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Peer = tuple[Callable[[list[str], int], Any], Callable[[list[str]], Any], Callable[[], dict[str, Any]]]
"""Embed documents in batches of a size; embed a query; tell versions and whatever else decides the speed."""


def ours(folder: str, dtype: str | None) -> Peer:
    """Embed documents, embed a query, tell versions."""
    from importlib.metadata import version

    import akidb_mlx

    embedder = akidb_mlx.Embedder.load(folder, **({"dtype": dtype} if dtype else {}))

    def facts() -> dict[str, Any]:
        return {"mlx": version("mlx"), **embedder.info()["stats"], **embedder.info()["memory"]}

    return (
        lambda texts, batch_size: embedder.encode_document(texts),
        lambda texts: embedder.encode_query(texts),
        lambda: {"tokens": 0, **facts()},
    )


def sentence_transformers(folder: str, dtype: str | None, compiled: bool = False) -> Peer:
    """The reference, on a GPU where torch sees one; `compiled` by torch.compile, and how many graphs came of it."""
    import sentence_transformers as st
    import torch

    options = {"model_kwargs": {"dtype": getattr(torch, dtype or "float32")}}
    model = st.SentenceTransformer(folder, **options)
    if compiled:  # assigning `auto_model` changes nothing since version 6
        model[0].model = torch.compile(model[0].model, dynamic=True)
    sides = {"convert_to_numpy": True, "show_progress_bar": False}

    def facts() -> dict[str, Any]:
        told: dict[str, Any] = {"sentence-transformers": st.__version__, "torch": torch.__version__}
        if compiled:
            from torch._dynamo.utils import counters

            told["graphs"] = counters["stats"]["unique_graphs"]
        return told

    return (
        lambda texts, batch_size: model.encode_document(texts, batch_size=batch_size, **sides),
        lambda texts: model.encode_query(texts, **sides),
        facts,
    )


def compiled_sentence_transformers(folder: str, dtype: str | None) -> Peer:
    """The reference with torch.compile in force."""
    return sentence_transformers(folder, dtype, compiled=True)


def _over_onnx(folder: str, compute: Callable[[dict[str, Any]], Any], facts: Callable[[], dict[str, Any]]) -> Peer:
    """What fastembed does around such a model: tokenize, pad to the longest of a batch, mean, unit length.

    Texts are sorted by length first, as the others do.
    """
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    limit = json.loads((Path(folder) / "sentence_bert_config.json").read_text())["max_seq_length"]
    tokenizer.enable_truncation(limit)
    tokenizer.enable_padding()

    def encode(texts: Sequence[str], batch_size: int = 32) -> Any:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        rows: Any = None
        for first in range(0, len(order), batch_size):
            places = order[first : first + batch_size]
            encoded = tokenizer.encode_batch([texts[i] for i in places])
            ids = np.array([one.ids for one in encoded], np.int64)
            mask = np.array([one.attention_mask for one in encoded], np.int64)
            inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            states = compute(inputs)
            weights = mask[:, :, None].astype(np.float32)
            pooled = (states * weights).sum(1) / weights.sum(1)
            if rows is None:
                rows = np.empty((len(texts), pooled.shape[1]), np.float32)
            rows[places] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return rows

    return encode, lambda texts: encode(texts), facts


def onnxruntime_(folder: str, dtype: str | None, name: str = "model.onnx") -> Peer:
    """Onnxruntime on the CPU, as installed."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(Path(folder) / "onnx" / name), providers=["CPUExecutionProvider"])
    wanted = {one.name for one in session.get_inputs()}

    def compute(inputs: dict[str, Any]) -> Any:
        return session.run(None, {name: array for name, array in inputs.items() if name in wanted})[0]

    return _over_onnx(folder, compute, lambda: {"onnxruntime": ort.__version__, "file": name})


def onnxruntime_int8(folder: str, dtype: str | None) -> Peer:
    """The same with weights of 8 bits (`onnxruntime.quantization.quantize_dynamic`): other vectors."""
    return onnxruntime_(folder, dtype, "model_int8.onnx")


def openvino(folder: str, dtype: str | None, precision: str | None = None) -> Peer:
    """OpenVINO on the CPU: as installed it computes in bfloat16 where the CPU has products of that."""
    import openvino as ov

    options = {} if precision is None else {"INFERENCE_PRECISION_HINT": precision}
    model = ov.Core().compile_model(str(Path(folder) / "onnx" / "model.onnx"), "CPU", options)
    wanted = {name for port in model.inputs for name in port.names}

    def compute(inputs: dict[str, Any]) -> Any:
        return model({name: array for name, array in inputs.items() if name in wanted})[0]

    def facts() -> dict[str, Any]:
        used = model.get_property("INFERENCE_PRECISION_HINT")
        return {"openvino": ov.__version__.partition("-")[0], "precision": used.get_type_name()}

    return _over_onnx(folder, compute, facts)


def openvino_float32(folder: str, dtype: str | None) -> Peer:
    """OpenVINO told to compute in float32."""
    return openvino(folder, dtype, "f32")


def candding(folder: str, dtype: str | None) -> Peer:
    """Candding (Rust, candle)."""
    from importlib.metadata import version

    import candding as package
    import numpy as np

    model = package.TextEmbedding(folder, device="cpu")

    def embed(texts: list[str], batch_size: int = 32) -> Any:
        return np.array(list(model.embed(texts, batch_size=batch_size)), np.float32)

    return embed, embed, lambda: {"candding": version("candding"), "dtype": str(model.dtype)}


def mlx_embeddings(folder: str, dtype: str | None) -> Peer:
    """mlx-embeddings as its documentation shows: sorted by length here, as the others do by themselves."""
    from importlib.metadata import version

    import numpy as np
    from mlx_embeddings.utils import load

    model, tokenizer = load(folder)

    def encode(texts: list[str], batch_size: int = 32) -> Any:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows: list[Any] = [None] * len(texts)
        for first in range(0, len(order), batch_size):
            part = order[first : first + batch_size]
            inputs = tokenizer._tokenizer if hasattr(tokenizer, "_tokenizer") else tokenizer
            batch = inputs([texts[i] for i in part], padding=True, truncation=True, max_length=256, return_tensors="np")
            import mlx.core as mx

            output = model(mx.array(batch["input_ids"]), attention_mask=mx.array(batch["attention_mask"]))
            for i, row in zip(part, np.array(output.text_embeds.astype(mx.float32)), strict=True):
                rows[i] = row
        return np.stack(rows)

    return encode, lambda texts: encode(texts), lambda: {"mlx-embeddings": version("mlx-embeddings")}


WORKERS: dict[str, Callable[[str, str | None], Peer]] = {
    "ours": ours,
    "sentence-transformers": sentence_transformers,
    "sentence-transformers, compiled": compiled_sentence_transformers,
    "onnxruntime": onnxruntime_,
    "onnxruntime, int8": onnxruntime_int8,
    "OpenVINO": openvino,
    "OpenVINO, float32": openvino_float32,
    "candding": candding,
    "mlx-embeddings": mlx_embeddings,
}


def langchain_akidb_mlx(folder: str, dtype: str | None) -> tuple[float, Callable[[str], Any]]:
    """Seconds that LangChain takes to import beside what the core imports anyway; embed a query."""
    import akidb_mlx.embedder  # noqa: F401

    began = time.perf_counter()
    from langchain_core.embeddings import Embeddings  # noqa: F401

    imported = time.perf_counter() - began
    from langchain_akidb_mlx import AkiDBMLXEmbeddings

    return imported, AkiDBMLXEmbeddings(model=folder, **({"dtype": dtype} if dtype else {})).embed_query


def llama_index_akidb_mlx(folder: str, dtype: str | None) -> tuple[float, Callable[[str], Any]]:
    """Seconds that LlamaIndex takes to import beside what the core imports anyway; embed a query."""
    import akidb_mlx.embedder  # noqa: F401

    began = time.perf_counter()
    import llama_index.core.base.embeddings.base
    import llama_index.core.embeddings.loading
    import llama_index.core.schema  # noqa: F401

    imported = time.perf_counter() - began
    from llama_index_akidb_mlx import AkiDBMLXEmbedding

    return imported, AkiDBMLXEmbedding(model_name=folder, **({"dtype": dtype} if dtype else {})).get_query_embedding


ADAPTERS = {
    "langchain_akidb_mlx": ("langchain_core", langchain_akidb_mlx),
    "llama_index_akidb_mlx": ("llama_index", llama_index_akidb_mlx),
}


def start_cold(name: str, folder: str, dtype: str | None) -> None:
    """Embed one text through an adapter and say what it took since the process started."""
    started = float(os.environ["PEER_STARTED"])
    imported, query = ADAPTERS[name][1](folder, dtype)
    query("one text")
    print("@" + json.dumps({"cold_s": time.time() - started, "import_s": imported, "peak_mb": peak_mb()}), flush=True)


def peak_mb() -> float:
    """Most memory that this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)


def work(name: str, folder: str, dtype: str | None) -> None:
    """Answer requests, one JSON object a line, until the input ends."""
    started = float(os.environ["PEER_STARTED"])
    documents, query, facts = WORKERS[name](folder, dtype)
    import numpy as np

    query(["one text"])
    answer: dict[str, Any] = {"cold_s": time.time() - started}
    while True:
        answer["peak_mb"] = peak_mb()
        print("@" + json.dumps(answer), flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        request = json.loads(line)
        began = time.perf_counter()
        if request["what"] == "documents":
            rows = documents(request["texts"], request["batch_size"])
            answer = {"seconds": time.perf_counter() - began}
            np.save(request["to"], np.asarray(rows, dtype=np.float32))
        elif request["what"] == "queries":
            taken = []
            for text in request["texts"]:
                began = time.perf_counter()
                query([text])
                taken.append(time.perf_counter() - began)
            answer = {"taken": taken}
        else:
            answer = {**facts(), "blas": blas_kernels()}


def blas_kernels() -> list[str]:
    """Which kernels the loaded BLAS libraries took for this CPU: what OpenBLAS calls them, MKL's by threadpoolctl."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return _openblas_kernels()
    known = [one for one in threadpool_info() if one["user_api"] == "blas"]
    return sorted({f"{one['internal_api']} {one['version']} {one.get('architecture', '')}".strip() for one in known})


def _openblas_kernels() -> list[str]:
    """By the libraries' own words, without threadpoolctl; Linux alone lists what is loaded."""
    import ctypes

    maps = Path("/proc/self/maps")
    loaded = {line.split()[-1] for line in maps.read_text().splitlines()} if maps.exists() else set()
    told = set()
    for path in loaded:
        if "openblas" not in path.rpartition("/")[2].lower():
            continue
        library = ctypes.CDLL(path)
        for name in ("openblas_get_corename", "openblas_get_corename64_", "scipy_openblas_get_corename64_"):
            ask = getattr(library, name, None)
            if ask is not None:
                ask.restype = ctypes.c_char_p
                told.add(f"openblas {ask().decode()}")
    return sorted(told)


def main() -> None:
    """What peers.py starts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", choices=[*WORKERS, *ADAPTERS], required=True)
    parser.add_argument("folder")
    parser.add_argument("--dtype")
    args = parser.parse_args()
    (start_cold if args.worker in ADAPTERS else work)(args.worker, args.folder, args.dtype)


if __name__ == "__main__":
    main()
