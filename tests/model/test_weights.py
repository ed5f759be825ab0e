"""Each weight of each reference checkpoint is needed, and nothing else may be there: or loading refuses."""

import re

import mlx.core as mx
import pytest

from akidb_mlx.checkpoint.facts import read_checkpoint
from akidb_mlx.checkpoint.heads import PooledHead
from akidb_mlx.device.choice import choose_device
from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.errors import CheckpointError, UnsupportedModelError
from akidb_mlx.model import loading
from akidb_mlx.model.heads import loading as heads
from support.checkpoints import CASES, REFERENCE

# Numbers that are computed, what pretraining leaves beside the backbone, and what static models may lack.
BESIDE = (
    r"(.*\.)?(position_ids|inv_freq)$|((al)?bert\.|mpnet\.|roberta\.)?pooler\.|cls\.|lm_head\.|vocab_|head\.|decoder\."
    r"|(mapping|weights)$|embed_out\.|(vision_tower|embed_vision|audio_tower|embed_audio)\.|predictions\.|sop_classifier\.|discriminator_predictions\."
)
# One table under two names: either may go.
TWICE = {"t5-instructor": ("shared.weight", "encoder.embed_tokens.weight")}


@pytest.mark.parametrize("name", CASES)
def test_every_weight_counts(name, monkeypatch):
    checkpoint = read_checkpoint(REFERENCE / name)
    device, read = choose_device("cpu"), loading.read_weights
    head = PooledHead(checkpoint.pooling or ("mean",), checkpoint.dense)

    def work():
        with device.stream():
            files = {tuple(checkpoint.weight_files), *((layer.weight_file,) for layer in checkpoint.dense)} - {(None,)}
            for file in files:
                for key in [*read(file), None]:
                    altered = {one: read(one) for one in files}
                    if key is None:
                        altered[file]["somebody.elses.weight"] = mx.zeros((3,))
                    else:
                        del altered[file][key]
                    for module in (loading, heads):
                        monkeypatch.setattr(
                            module, "read_weights", lambda given, altered=altered: altered[tuple(given)]
                        )
                    try:
                        loading.load_model(checkpoint, head, device)
                    except (CheckpointError, UnsupportedModelError):
                        continue
                    if key is None or not (re.match(BESIDE, key) or key in TWICE.get(name, ())):
                        yield key or "an unknown one"

    assert DEVICE_THREADS.run(lambda: list(work())).result() == []
