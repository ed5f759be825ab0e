"""The same process is another's too: mlx-lm generates in a thread of its own while vectors are computed.

In a child process, for importing mlx-lm lowers the limit of open files for good.
"""

import json
import subprocess
import sys
import textwrap

import pytest

from support.places import ROOT
from support.waiting import PATIENCE_S

START = f"""
import json, os, sys, threading
import akidb_mlx
import mlx.core as mx
import numpy as np
sys.path[:0] = [{str(ROOT / "tests")!r}]
from akidb_mlx import Embedder
from akidb_mlx.engine.device_threads import DEVICE_THREADS
from mlx_lm import generate
from mlx_lm.generate import generate_step
from mlx_lm.models.llama import Model, ModelArgs
from mlx_lm.sample_utils import make_sampler
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from support.checkpoints import REFERENCE
from support.waiting import until

WORDS = [f"w{{place}}" for place in range(64)]
TEXTS = ["Snow fell through the night.", "tea", "harbour " * 20, *(f"boat {{place}}" for place in range(40))]
FOLDER = REFERENCE / "bert-prompts"

mx.random.seed(7)
llm = Model(ModelArgs(model_type="llama", hidden_size=64, num_hidden_layers=2, intermediate_size=128,
                      num_attention_heads=4, rms_norm_eps=1e-5, vocab_size=len(WORDS)))
mx.eval(llm.parameters())
table = Tokenizer(models.WordLevel({{word: place for place, word in enumerate(WORDS)}}, unk_token="w0"))
table.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
words = TokenizerWrapper(PreTrainedTokenizerFast(tokenizer_object=table, unk_token="w0"), eos_token_ids=[])

def sampled(seed, count=40):
    mx.random.seed(seed)
    steps = generate_step(mx.array([1, 2, 3]), llm, max_tokens=count, sampler=make_sampler(temp=1.0))
    return [int(token) for token, _ in steps]

def settings():
    limits = {{}}
    for name in ("cache", "memory", "wired"):
        change = getattr(mx, f"set_{{name}}_limit")
        limits[name] = change(0 if name == "wired" else 2**30)
        change(limits[name])
    device = mx.default_device()
    return {{**limits, "device": str(device), "stream": str(mx.default_stream(device)),
            "random": [np.array(key).tolist() for key in mx.random.state]}}

def in_a_thread(work):
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results
"""


def told(script):
    """What a child process says as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", START + textwrap.dedent(script)], capture_output=True, text=True, timeout=PATIENCE_S * 2
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_both_go_on_and_nothing_of_mlx_changes():
    said = told("""
        mx.random.seed(3)
        before = settings()
        with Embedder.load(FOLDER, dtype="float32") as embedder:
            loaded = settings()
            expected = embedder.encode(TEXTS)
            alone = [in_a_thread(lambda: (sampled(11), generate(llm, words, "w1 w2", max_tokens=30)))]
            alone[0][0].join()
            stop = threading.Event()
            def keep_generating():
                rounds = []
                while not stop.is_set() or not rounds:
                    rounds.append((sampled(11), generate(llm, words, "w1 w2", max_tokens=30)))
                return rounds
            generating = [in_a_thread(keep_generating) for _ in range(2)]
            largest, devices, streams = 0.0, set(), set()
            def embed():
                worst = 0.0
                for _ in range(12):
                    worst = max(worst, float(np.abs(embedder.encode(TEXTS) - expected).max()))
                return worst
            embedding = [in_a_thread(embed) for _ in range(3)]
            while any(thread.is_alive() for thread, _ in embedding):
                devices.add(str(mx.default_device()))
                streams.add(str(mx.default_stream(mx.default_device())))
            stop.set()
            for thread, _ in [*generating, *embedding]:
                thread.join()
            after = settings()
        print(json.dumps({
            "worst": [worst for _, (worst,) in embedding],
            "same_words": all(one == alone[0][1][0] for _, (rounds,) in generating for one in rounds),
            "rounds": sum(len(rounds) for _, (rounds,) in generating),
            "before": before, "loaded": loaded, "after": after, "closed": settings(),
            "devices": sorted(devices), "streams": sorted(streams),
        }))
    """)
    assert max(said["worst"]) <= 1e-6 and len(said["worst"]) == 3
    assert said["same_words"] and said["rounds"] >= 2
    assert said["before"] == said["loaded"] == said["after"] == said["closed"]
    assert said["devices"] == [said["before"]["device"]] and said["streams"] == [said["before"]["stream"]]


def test_weights_go_and_come_back_beside_it():
    said = told("""
        with Embedder.load(FOLDER, dtype="float32", keep_alive=0) as embedder:
            expected = embedder.encode(TEXTS)
            stop = threading.Event()
            def keep_generating():
                words_of = sampled(5)
                while not stop.is_set():
                    if sampled(5) != words_of:
                        return False
                return True
            thread, same = in_a_thread(keep_generating)
            worst = 0.0
            for _ in range(8):
                until(lambda: not embedder.stats()["loaded"])
                worst = max(worst, float(np.abs(embedder.encode(TEXTS) - expected).max()))
            stop.set()
            thread.join()
            print(json.dumps({"worst": worst, "same": same, "loads": embedder.stats()["loads"]}))
    """)
    assert said["worst"] <= 1e-6 and said["same"] == [True] and said["loads"] == 9


@pytest.mark.parametrize("name", ["qwen3-embedding"])
def test_a_decoder_beside_it(name):
    """Both are mlx-lm's layers, in two copies of its modules."""
    said = told(f"""
        folder = REFERENCE / {name!r}
        before = settings()
        with Embedder.load(folder, dtype="float32") as embedder:
            expected = embedder.encode(TEXTS)
            thread, results = in_a_thread(lambda: [sampled(2) for _ in range(10)])
            worst = 0.0
            while thread.is_alive():
                worst = max(worst, float(np.abs(embedder.encode(TEXTS) - expected).max()))
            print(json.dumps({{"worst": worst, "one": len(set(map(tuple, results[0]))), "same": settings() == before}}))
    """)
    assert said["worst"] <= 1e-6 and said["one"] == 1 and said["same"]


def test_a_gpus_cache_is_trimmed_without_a_limit_that_stays():
    said = told("""
        before = mx.set_cache_limit(300 * 2**20)
        large = mx.zeros((64, 2**20))
        mx.eval(large)
        del large
        kept = mx.get_cache_memory()
        DEVICE_THREADS.run(lambda: DEVICE_THREADS.trim_cache(100)).result()
        print(json.dumps([kept, mx.get_cache_memory(), mx.set_cache_limit(before)]))
    """)
    assert said[0] >= 256 * 2**20 > 100 * 2**20 >= said[1] and said[2] == 300 * 2**20


def test_what_is_asked_for_is_set():
    """cache_limit_mb is MLX's own limit, of which a process has one."""
    said = told("""
        with Embedder.load(FOLDER, cache_limit_mb=123) as embedder:
            embedder.encode(TEXTS)
            print(json.dumps(settings()["cache"]))
    """)
    assert said == 123 * 2**20
