"""With GPUs that Ray is told of, each actor reserves one and sees that one alone; a faster one gets more work."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from support.checkpoints import PROMPTS
from support.comparison import assert_close
from support.waiting import PATIENCE_S

pytest.importorskip("ray", reason="the extra [ray] is not installed")
pytestmark = pytest.mark.slow

PROGRAM = textwrap.dedent(
    """
    import json, os, sys, time
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import numpy as np, ray
    from akidb_mlx import EmbedderConfig, errors
    from akidb_mlx import ray as akidb_ray

    class Told(akidb_ray.RayEmbedder):
        count = 0

        def encode(self, texts):
            self.count += len(texts)
            began = time.monotonic()
            rows = super().encode(texts)
            if [str(one) for one in ray.get_gpu_ids()] == ["1"]:  # several times slower, however busy the machine is
                time.sleep(max(0.4, 5 * (time.monotonic() - began)))
            return rows

        def tell(self):
            return os.environ.get("CUDA_VISIBLE_DEVICES"), ray.get_gpu_ids(), self.count

    akidb_ray.RayEmbedder = Told
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}}
    ray.init(num_cpus=3, num_gpus=2, log_to_driver=False, include_dashboard=False, runtime_env=environment)
    config = EmbedderConfig(model=sys.argv[1])
    texts = [f"row {number} of many" for number in range(2000)]
    with akidb_ray.RayEncoder(config) as encoder:
        rows = np.concatenate(list(encoder.encode_stream(texts, 50)))
        told = ray.get([actor.tell.remote() for actor in encoder._actors])
        left = ray.available_resources().get("GPU", 0)
    try:
        akidb_ray.RayEncoder(config, actors=3)
    except errors.ConfigError as error:
        refused = str(error)
    print(json.dumps({"told": told, "left": left, "refused": refused, "rows": rows[::100].tolist()}))
    """
)


def test_one_actor_for_each_gpu(tiny):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(PROMPTS)], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    seen, reserved, counts = zip(*found["told"], strict=True)
    assert sorted(seen) == ["0", "1"]
    assert sorted(map(tuple, reserved)) in ([(0,), (1,)], [("0",), ("1",)])
    assert found["left"] == 0
    assert sum(counts) == 2000
    assert 200 <= min(counts) <= 900  # the slow one gets less, and holds nobody up
    assert "the cluster has 2 GPUs: one actor a device" in found["refused"]
    expected = tiny.encode_document([f"row {number} of many" for number in range(0, 2000, 100)])
    assert_close(np.array(found["rows"], np.float32), expected, tolerance=3e-6)
