"""What shared passes save: a BGE-M3's dense, sparse and multi-vector rows from one pass, and from one each.

    python benchmarks/hybrid.py FOLDER [--texts 500] [--rounds 7]

FOLDER is a model with `sparse_linear` and `colbert_linear` beside it; `--make` writes a random one there first (XLM-R's
form, 4 layers of 192). Three comparisons, the two sides of each taking turns to begin a round: all three rows of the
texts; dense and sparse; and a LangChain index in Qdrant (`:memory:`, hybrid), where the classes of one model share
passes and those of two settings do not. Rows computed and passes are the engines' counters; times are medians with the
least and the greatest, ratios are taken round by round.
"""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corpus_text import sentences

from akidb_mlx import Embedder, HybridEmbedder, MultiVectorEmbedder, SparseEmbedder

TINY = Path(__file__).resolve().parents[1] / "tests" / "reference"
WIDTH, INNER, LAYERS, POSITIONS = 192, 768, 4, 258


def make(folder: Path) -> None:
    """A random model of the tests' tokenizer and files, larger."""
    import mlx.core as mx

    shutil.copytree(TINY / "xlm-roberta-cls", folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS}
    config |= {"max_position_embeddings": POSITIONS, "num_attention_heads": 6}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 256, "do_lower_case": False}))
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"word_embedding_dimension": WIDTH}))
    tiny = mx.load(str(folder / "model.safetensors"))
    of_first = {name: array for name, array in tiny.items() if ".layer.1." not in name}
    named = {name.replace(".layer.0.", f".layer.{i}."): one for name, one in of_first.items() for i in range(LAYERS)}
    widths = {32: WIDTH, 48: INNER, 66: POSITIONS}
    weights = {}
    for name, one in named.items():
        noise = mx.random.normal([widths.get(size, size) for size in one.shape]) * 0.05
        weights[name] = noise + 1 if name.endswith("LayerNorm.weight") else noise
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    for name, out in (("sparse_linear", 1), ("colbert_linear", WIDTH)):
        linear = {"weight": mx.random.normal([out, WIDTH]), "bias": mx.full([out], 0.1)}
        mx.save_safetensors(str(folder / f"{name}.safetensors"), linear)


def compared(what: str, sides: dict[str, tuple[Callable[[], Any], list[Any]]], rounds: int) -> None:
    """Time the two sides in turn; the models of each tell what they computed."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for call, _ in sides.values():
        call()
    before = {name: counted(faces) for name, (_, faces) in sides.items()}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            sides[name][0]()
            times[name].append(time.perf_counter() - start)
    print(what)
    for name, (_, faces) in sides.items():
        rows, passes = ((now - then) / rounds for now, then in zip(counted(faces), before[name], strict=True))
        print(f"  {name}: {rows:.0f} rows, {passes:.1f} passes, {spread(times[name])} s")
    one, other = times.values()
    print(f"  {' : '.join(sides)} = 1 : {spread([b / a for a, b in zip(one, other, strict=True)])}")


def counted(faces: list[Any]) -> tuple[int, int]:
    told = [face.stats() for face in faces]
    return sum(each["rows"] for each in told), sum(each["batches"] for each in told)


def spread(numbers: list[float]) -> str:
    return f"{statistics.median(numbers):.2f} ({min(numbers):.2f}–{max(numbers):.2f})"


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if options.make:
        make(options.folder)
    texts = sentences()[: options.texts]
    hybrid = HybridEmbedder.load(options.folder)
    # Another setting is another loaded model, which shares nothing.
    apart = [
        kind.load(options.folder, max_queued_tokens=1_000_001 + i)
        for i, kind in enumerate((Embedder, SparseEmbedder, MultiVectorEmbedder))
    ]
    dense, sparse, _ = apart

    def all_apart() -> None:
        for face in apart:
            face.encode_document(texts)

    print(f"{len(texts)} texts of {statistics.mean(hybrid.count_tokens(texts)):.0f} tokens on average")
    compared(
        "dense, sparse and multi-vector rows",
        {"together": (lambda: hybrid.encode_document(texts), [hybrid]), "apart": (all_apart, apart)},
        options.rounds,
    )
    hybrid.close()
    with Embedder.load(options.folder) as one, SparseEmbedder.load(options.folder) as other:
        compared(
            "dense rows, then sparse ones",
            {
                "shared": (lambda: (one.encode_document(texts), other.encode_document(texts)), [one]),
                "apart": (lambda: (dense.encode_document(texts), sparse.encode_document(texts)), [dense, sparse]),
            },
            options.rounds,
        )
        compared(
            "LangChain's hybrid index in Qdrant",
            {
                "shared": (lambda: index(texts, one, other), [one]),
                "apart": (lambda: index(texts, dense, sparse), [dense, sparse]),
            },
            options.rounds,
        )


def index(texts: list[str], dense: Embedder, sparse: SparseEmbedder) -> None:
    from langchain_qdrant import QdrantVectorStore, RetrievalMode

    from langchain_akidb_mlx import AkiDBMLXEmbeddings
    from langchain_akidb_mlx.sparse import AkiDBMLXSparseEmbeddings

    QdrantVectorStore.from_texts(
        texts,
        AkiDBMLXEmbeddings(embedder=dense),
        sparse_embedding=AkiDBMLXSparseEmbeddings(embedder=sparse),
        retrieval_mode=RetrievalMode.HYBRID,
        location=":memory:",
        collection_name="texts",
    )


if __name__ == "__main__":
    main()
