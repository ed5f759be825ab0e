"""`akidb-mlx doctor --device`: this device passes, and each fault that a device may have fails in its own line."""

import json
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from akidb_mlx.cli import doctor, main
from akidb_mlx.device import blas
from akidb_mlx.device.memory import Memory, Room
from akidb_mlx.device.precision import FLOAT32_ERROR, describe_error, float32_error
from akidb_mlx.doctor import Finding, attention, device, engine, environment, kernels, packings, read_machine, speed
from akidb_mlx.doctor.findings import Case, relative_error, worst
from akidb_mlx.doctor.limits import LIMITS
from akidb_mlx.doctor.tiny_model import write_tiny_model
from akidb_mlx.errors import BackendError, ConfigError
from akidb_mlx.model.layers import activations, cpu_kernels, rope
from akidb_mlx.model.layers.host_layers import HostLayers
from akidb_mlx.model.network import Network
from support.checkpoints import REFERENCE
from support.waiting import PATIENCE_S

STATIC = str(REFERENCE / "static-root")
# What starts processes, or only informs.
SLOW = {"exit while busy", "forked child", *speed.FIGURES}


def all_of(name):
    return {f"{name}, {dtype}" for dtype in LIMITS}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The same questions of fewer shapes."""
    monkeypatch.setattr(attention, "_SHAPES", dict.fromkeys(("metal", "cuda", "cpu"), ((32, 64), (3, 9))))
    monkeypatch.setattr(attention, "_LONG", ((32, 100),))
    monkeypatch.setattr(kernels, "_PRODUCTS", ((1, 64, 64), (33, 100, 72)))
    one_of_each = {mode: (mode, bits, size) for mode, bits, size in packings.PACKINGS}.values()
    monkeypatch.setattr(packings, "PACKINGS", tuple(one_of_each))
    monkeypatch.setattr(packings, "_ROWS", dict.fromkeys(packings._ROWS, (1, 9)))
    monkeypatch.setattr(device, "_ROPE_LENGTHS", (64,))
    monkeypatch.setattr(engine, "_TEXTS_EACH", 3)
    monkeypatch.setattr(speed, "_SIDES", dict.fromkeys(speed._SIDES, 64))
    monkeypatch.setattr(speed, "_ROWS", dict.fromkeys(speed._ROWS, 1))
    monkeypatch.setattr(speed, "_LEAST_S", 0.01)
    monkeypatch.setattr(speed, "_REST_S", 0.01)


@pytest.fixture
def quick(monkeypatch):
    """Without what starts processes, or only informs."""

    def but_slow(probes):
        return lambda *args: (probe for probe in probes(*args) if probe[0] not in SLOW)

    monkeypatch.setattr(device, "_engine", but_slow(device._engine))
    monkeypatch.setattr(device, "_speed", but_slow(device._speed))


@pytest.fixture
def by_mlx(monkeypatch):
    """All by MLX, whose faults are meant: on a CPU BERT's layers are NumPy's and the BLAS's."""
    monkeypatch.setattr(HostLayers, "of", lambda _: None)


def outcomes(machine=None):
    return {finding.probe: finding for finding in device.examine_device(machine or read_machine())}


# ── faults of a device ───────────────────────────────────────────────────────────────────────────────


def to_tf32(x):
    """Rounded to 10 bits of mantissa, halves to even, as GPUs do."""
    if x.dtype != mx.float32:
        return x
    bits = x.view(mx.uint32)
    return ((bits + (0xFFF + ((bits >> 13) & 1))) & 0xFFFFE000).view(mx.float32)


def without_masks(monkeypatch):
    fused, ours = mx.fast.scaled_dot_product_attention, cpu_kernels.attention

    def dropped(mask):
        return mask if isinstance(mask, str) else None

    monkeypatch.setattr(
        mx.fast, "scaled_dot_product_attention", lambda *args, mask=None, **how: fused(*args, mask=dropped(mask), **how)
    )
    monkeypatch.setattr(cpu_kernels, "attention", lambda q, k, v, mask, scale: ours(q, k, v, None, scale))


def keys_of_another_group(monkeypatch):
    fused = mx.fast.scaled_dot_product_attention

    def swapped(queries, keys, values, **how):
        return fused(queries, keys if keys.shape[1] == queries.shape[1] else keys[:, ::-1], values, **how)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", swapped)


def blocks_from_the_texts_start(monkeypatch):
    """Each block of queries is taken for the first."""
    ours = cpu_kernels.attention_in_blocks
    monkeypatch.setattr(cpu_kernels, "attention_in_blocks", lambda *args: ours(*args[:5]))


def rope_by_base(monkeypatch):
    """MLX's own frequencies, which are off at long positions."""
    monkeypatch.setattr(device, "_ROPE_LENGTHS", (64, 8192))

    def make_rope(dims, settings, *, interleaved):
        turned = int(dims * settings["partial_rotary_factor"])
        base = settings["rope_theta"]
        return lambda x: mx.fast.rope(x, turned, traditional=interleaved, base=base, scale=1.0, offset=0)

    monkeypatch.setattr(rope, "make_rope", make_rope)


def rope_shifted(monkeypatch):
    monkeypatch.setattr(device, "_ROPE_LENGTHS", (64, 512))
    turn = mx.fast.rope
    monkeypatch.setattr(mx.fast, "rope", lambda *args, **how: turn(*args, **{**how, "offset": 1}))


def products_in_tf32(monkeypatch):
    multiply, add_to = mx.array.__matmul__, mx.addmm
    monkeypatch.setattr(mx.array, "__matmul__", lambda a, b: multiply(to_tf32(a), to_tf32(b)))
    monkeypatch.setattr(mx, "addmm", lambda c, a, b: add_to(c, to_tf32(a), to_tf32(b)))


def products_of_16_bits_lose_terms(monkeypatch):
    multiply, add_to = mx.array.__matmul__, mx.addmm

    def some(a):
        return a if a.dtype == mx.float32 else mx.where(mx.arange(a.shape[-1]) % 8 > 0, a, 0)

    monkeypatch.setattr(mx.array, "__matmul__", lambda a, b: multiply(some(a), b))
    monkeypatch.setattr(mx, "addmm", lambda c, a, b: add_to(c, some(a), b))


def residuals_left_out(monkeypatch):
    add_to = mx.addmm
    monkeypatch.setattr(mx, "addmm", lambda c, a, b: a @ b if c.ndim == 2 else add_to(c, a, b))


def gelu_by_tanh(monkeypatch):
    monkeypatch.setitem(activations.ACTIVATIONS, "gelu", nn.gelu_approx)


def packed_scales_off(monkeypatch):
    multiply = mx.quantized_matmul

    def off(x, weight, scales, biases=None, **how):
        return multiply(x, weight, scales if biases is None else scales * 1.001, biases, **how)

    monkeypatch.setattr(mx, "quantized_matmul", off)


def unpacked_scales_off(monkeypatch):
    unpack = mx.dequantize

    def off(weight, scales, biases=None, **how):
        return unpack(weight, scales if biases is None else scales * 1.001, biases, **how)

    monkeypatch.setattr(mx, "dequantize", off)


def rows_that_depend_on_their_batch(monkeypatch):
    embed = Network.__call__

    def off(self, batch):
        rows = embed(self, batch)
        return rows if len(batch.lengths) == 1 else rows.at[:, 0].add(rows[:, 1])

    monkeypatch.setattr(Network, "__call__", off)


def norms_without_eps(monkeypatch):
    norm = mx.fast.rms_norm
    monkeypatch.setattr(mx.fast, "rms_norm", lambda x, weight, eps: norm(x, weight, eps=1.0))


def softmax_not_normalised(monkeypatch):
    monkeypatch.setattr(mx, "softmax", lambda x, axis, precise=False: mx.exp(x))


def counting_from_zero(monkeypatch):
    count = mx.cumsum
    monkeypatch.setattr(mx, "cumsum", lambda x, axis: count(x, axis=axis, inclusive=False))


def pooling_the_padding(monkeypatch):
    from akidb_mlx.model.heads import pooling

    counted = pooling.Counted
    whole = lambda length, lengths, starts: counted(length, np.full_like(lengths, length), starts)  # noqa: E731
    monkeypatch.setattr(pooling, "Counted", whole)


def nothing_finite(monkeypatch):
    fused, ours = mx.fast.scaled_dot_product_attention, cpu_kernels.attention
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", lambda *args, **how: fused(*args, **how) * mx.nan)
    monkeypatch.setattr(cpu_kernels, "attention", lambda *args: ours(*args) * mx.nan)


IN_BATCHES = all_of("alone = in a batch") | {"several callers"}
BLOCKS = {"long attention in blocks"}
# What must fail, of what this device is asked.
FAULTS = {
    without_masks: all_of("attention") | IN_BATCHES | BLOCKS,
    keys_of_another_group: all_of("attention"),
    blocks_from_the_texts_start: BLOCKS,
    rope_by_base: {"rotary positions to 8192"},
    rope_shifted: {"rotary positions to 64", "rotary positions to 512"},
    products_in_tf32: {"precision of float32", "products, float32", "attention, float32", "rows, float32"}
    | {"pooling", "several callers"}
    | BLOCKS,
    products_of_16_bits_lose_terms: (all_of("products") | all_of("rows")) - {"products, float32", "rows, float32"},
    residuals_left_out: all_of("products"),
    gelu_by_tanh: {"activations", "rows, float32", "several callers"},
    packed_scales_off: {"packed weights, float32"},
    unpacked_scales_off: {"packed weights, float32", "unpacked weights"},
    rows_that_depend_on_their_batch: IN_BATCHES,
    norms_without_eps: {"norms"},
    softmax_not_normalised: {"softmax and sums"},
    counting_from_zero: {"look-ups"},
    pooling_the_padding: {"pooling", *IN_BATCHES},
    nothing_finite: {*all_of("attention"), *all_of("long attention"), *all_of("rows"), "memory of a full batch"}
    | IN_BATCHES
    | BLOCKS,
}
# What may fail besides: by whether the last bits of the two rows fall on two sides of a rounding.
BY_LUCK = {products_in_tf32: {"alone = in a batch, float32"}}


def test_this_device_passes(quick):
    found = outcomes()
    assert {name: finding.detail for name, finding in found.items() if finding.passed is False} == {}
    assert {name for name, finding in found.items() if finding.passed is None} <= {"environment", "wheel"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_fails_where_it_is(quick, by_mlx, monkeypatch, fault):
    fault(monkeypatch)
    found = outcomes()
    failed = {name for name, finding in found.items() if finding.passed is False}
    assert failed - BY_LUCK.get(fault, set()) == FAULTS[fault] & found.keys()


# ── what starts processes ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def subject(tmp_path):
    return engine.Subject.make(read_machine(), tmp_path)


def child(monkeypatch, script):
    monkeypatch.setattr(engine, "_CHILD", (sys.executable, "-c", script))


def test_a_process_that_ends_while_busy(subject):
    assert engine.ends_while_busy(subject) == (True, "a process whose threads embed ends with code 0 and says nothing")


@pytest.mark.parametrize(
    ("script", "detail"),
    [
        ("import os; os.abort()", "the process ends with code -6: it says nothing"),
        ("import sys; print('embeds'); sys.exit('boom')", "the process ends with code 1: boom"),
        ("import sys; print('embeds'); print('oh', file=sys.stderr)", "the process ends with code 0: oh"),
        ("", "the process ends with code 0: it says nothing"),
    ],
)
def test_a_process_that_ends_badly(subject, monkeypatch, script, detail):
    child(monkeypatch, script)
    assert engine.ends_while_busy(subject) == (False, detail)


def test_processes_that_do_not_end(subject, monkeypatch):
    child(monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr(engine, "_CHILD_S", 0.5)
    assert engine.ends_while_busy(subject)[0] is False
    passed, detail = engine.forked_child(subject)
    assert (passed, "neither answers nor refuses" in detail) == (False, True)


def test_a_forked_child(subject):
    passed, detail = engine.forked_child(subject)
    assert passed is True
    assert detail == f"a forked child is {'right' if subject.machine.device.survives_fork else 'refused'}"


@pytest.mark.parametrize("survives", [True, False])
@pytest.mark.parametrize("said", ["right", "refused", "wrong", "hanging", "ended with code -11"])
def test_what_a_forked_child_should_do(subject, monkeypatch, survives, said):
    child(monkeypatch, f"print('{json.dumps(said)}')")
    machine = replace(subject.machine, device=replace(subject.machine.device, survives_fork=survives))
    passed, detail = engine.forked_child(replace(subject, machine=machine))
    assert passed is (said == ("right" if survives else "refused"))
    assert said in detail


def test_a_forking_process_that_fails(subject, monkeypatch):
    child(monkeypatch, "raise SystemExit('no memory')")
    assert engine.forked_child(subject) == (False, "the process ends with code 1: no memory")


# ── the memory, the time, the order ──────────────────────────────────────────────────────────────────


def test_a_batch_that_does_not_fit(by_mlx, subject):
    memory = Memory(lambda: Room(2_000_000, 2_000_000, "a small machine"))
    machine = replace(subject.machine, device=replace(subject.machine.device, memory=memory))
    passed, detail = device._on_device(machine.device, lambda: engine.full_batch(replace(subject, machine=machine)))
    assert passed is False
    assert detail.endswith(" of 2 MB (a small machine)")


def test_a_probe_that_raises_does_not_stop_the_others(quick, monkeypatch):
    def boom():
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(kernels, "norms", boom)
    found = outcomes()
    assert found["norms"] == Finding("norms", False, "RuntimeError: no such kernel")
    assert found["pooling"].passed is True


def test_a_device_that_hangs_is_asked_nothing_more(quick, monkeypatch):
    ends = threading.Event()

    def norms():
        ends.wait(PATIENCE_S)
        yield Case("", 0.0, 1.0)

    monkeypatch.setattr(kernels, "norms", norms)
    monkeypatch.setattr(kernels, "activations", lambda _: [Case("", 0.0, 1.0)])
    findings = iter(device.examine_device(read_machine()))
    for finding in findings:
        if finding.probe == "activations":
            monkeypatch.setattr(device, "_PROBE_S", 0.2)
            break
    hanging = next(findings)
    monkeypatch.setattr(device, "_PROBE_S", 60.0)
    more = next(findings, None)
    ends.set()
    assert (hanging.detail, more) == ("no answer within 0 s; nothing more is asked of the device", None)


# ── the environment ──────────────────────────────────────────────────────────────────────────────────


def mac(monkeypatch, error):
    def choose_device(requested=None):
        raise error

    monkeypatch.setattr(environment, "choose_device", choose_device)
    monkeypatch.setattr(environment, "sys", SimpleNamespace(platform="darwin"))


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (
            RuntimeError("[metal::load_device] No Metal device available."),
            "none: [metal::load_device] No Metal device available.; start it where the GPU is visible: in a login "
            "session, not in a sandbox, container or virtual machine",
        ),
        (BackendError("MLX finds no Metal device; do this"), "none: MLX finds no Metal device; do this"),
    ],
)
def test_a_mac_without_a_gpu_is_one_finding(monkeypatch, error, detail):
    mac(monkeypatch, error)
    found = outcomes()
    assert found.keys() == {"device", "environment"}
    assert found["device"] == Finding("device", False, detail)


def test_a_gpu_that_is_asked_for_and_is_not_there(monkeypatch):
    def choose_device(requested):
        raise ConfigError(f'device is "{requested}", but MLX finds none here')

    monkeypatch.setattr(environment, "choose_device", choose_device)
    found = outcomes(read_machine("gpu"))
    assert found["device"] == Finding("device", False, 'none: device is "gpu", but MLX finds none here')


@pytest.mark.skipif(read_machine().device.kind != "cpu", reason="there is a GPU")
@pytest.mark.parametrize("sign", ["driver", "build"])
def test_a_gpu_that_mlx_does_not_see(monkeypatch, tmp_path, sign):
    if sign == "driver":
        monkeypatch.setattr(environment, "_NVIDIA_DRIVER", tmp_path)
    else:
        monkeypatch.setattr(environment, "_installed", lambda name: "0.32.4" if name == "mlx-cuda-13" else None)
    finding = read_machine().finding
    assert finding.passed is False
    assert "but MLX finds no GPU and computes on the CPU" in finding.detail
    assert ("akidb-mlx[cuda13]" in finding.detail) is (sign == "driver")
    assert read_machine("cpu").finding.passed is True


@pytest.mark.parametrize(
    ("architecture", "wheel", "passed"),
    [
        ("applegpu_g17s", "0.32.4 py3-none-macosx_26_0_arm64", True),
        ("applegpu_g17s", "0.32.4 py3-none-macosx_15_0_arm64", False),
        ("applegpu_g18p", None, False),
        ("applegpu_g13g", "0.32.4 py3-none-macosx_14_0_arm64", None),
        ("", "0.32.4 py3-none-macosx_14_0_arm64", None),
    ],
)
def test_the_wheel_that_matrix_units_need(architecture, wheel, passed):
    machine = read_machine()
    facts = {**machine.facts, "packages": {} if wheel is None else {"mlx-metal": wheel}}
    facts["device"] = {"architecture": architecture}
    found = environment.examine_environment(replace(machine, facts=facts, device=replace(machine.device, kind="metal")))
    assert [finding.passed for finding in found] == [True, passed, None]
    assert ("--force-reinstall" in found[1].detail) is (passed is False)


def test_what_others_read_tells_nothing_of_this_machine_alone(monkeypatch):
    info = mx.device_info
    secrets = {"uuid": "secret", "pci_bus_id": "secret"}
    monkeypatch.setattr(mx, "device_info", lambda of: {**info(of), **secrets})
    monkeypatch.setattr(blas, "_status", blas.Status("/home/secret/.cache/blas.so", "renamed"))
    facts = read_machine().facts
    assert "secret" not in json.dumps(facts)
    assert facts["blas"] == "renamed"


# ── what probes stand on ─────────────────────────────────────────────────────────────────────────────


def test_the_tiny_models_rows_are_sentence_transformers(tmp_path):
    """The first six of 128 numbers, from sentence-transformers 6.2 on the same folder."""
    expected = [
        [0.06343890726, 0.03010638803, 0.06411580741, -0.00986806117, 0.08259138464, -0.03746242448],
        [0.05289062857, 0.08128843456, 0.17883865535, 0.04216986522, 0.11161279678, 0.01948958449],
        [0.02175636216, 0.04338061437, 0.13220423460, 0.11403302848, 0.08178284019, -0.04448816180],
    ]
    rows = write_tiny_model(tmp_path).rows(["w1", "w7 w499 w3", "w2 w3 " * 8])
    np.testing.assert_allclose(rows[:, :6], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("fault", [None, products_in_tf32], ids=["as it is", "TF32"])
def test_the_precision_of_float32_is_measured(monkeypatch, fault):
    if fault is None:
        assert float32_error() <= FLOAT32_ERROR / 5
        assert describe_error(float32_error()) == "float32 is float32"
    else:
        fault(monkeypatch)
        assert 1e-4 < float32_error() < 1e-3
        assert "set MLX_ENABLE_TF32=0" in describe_error(float32_error())


@pytest.mark.parametrize("error", [0.01, float("inf")])
def test_a_product_that_is_worse_than_tf32(error):
    assert describe_error(error) == "float32 products are wrong, or computed in fewer bits than TF32's"


def test_the_worst_case_under_each_limit():
    cases = [Case("here", 1e-7, 1e-5), Case("there", 2e-7, 1e-5), Case("half", 1e-3, 4e-3)]
    assert worst(cases) == (True, "2.0e-07 at there (at most 1e-05); 1.0e-03 at half (at most 0.004)")
    assert worst([*cases, Case("far", 2e-5, 1e-5)])[0] is False
    assert worst([*cases, Case("nan", float("nan"), 1e-5)])[0] is False


@pytest.mark.parametrize("got", [[1.0, np.nan], [1.0], [1.0, np.inf]])
def test_what_is_not_finite_or_of_another_shape_is_infinitely_wrong(got):
    assert relative_error(np.array(got), np.array([1.0, 2.0])) == float("inf")
    assert relative_error(np.array([1.0, 2.5]), np.array([1.0, 2.0])) == 0.25


# ── the command ──────────────────────────────────────────────────────────────────────────────────────


def run(capsys, *arguments):
    """(exit code, standard output, standard error)."""
    try:
        code = main(["doctor", *arguments])
    except SystemExit as ended:  # argparse's way
        code = ended.code
    out, err = capsys.readouterr()
    return code, out, err


def test_the_device_alone(capsys, monkeypatch):
    monkeypatch.setenv("AKIDB_MLX_MODEL", "/nowhere")  # not meant
    code, out, err = run(capsys, "--device", "--json")
    found = json.loads(out)
    assert (code, err, found["passed"]) == (0, "", True)
    assert found["environment"]["device"]["kind"] == read_machine().device.kind
    assert {finding["probe"] for finding in found["findings"]} >= SLOW | {"device", "precision of float32"}
    assert "fingerprint" not in found


def test_the_device_and_a_model(quick, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(doctor, "read_machine", lambda requested: asked.append(requested) or read_machine(requested))
    code, out, _ = run(capsys, STATIC, "--device", "cpu")
    lines = out.splitlines()
    assert (code, asked) == (0, ["cpu"])
    assert lines[0].startswith("pass  device  ") and "cpu: " in lines[0]
    assert lines[1].startswith("note  environment  ")
    assert any(line.startswith("pass  shape and length  ") for line in lines)


def test_both_as_json(quick, capsys):
    code, out, _ = run(capsys, STATIC, "--device", "--json")
    found = json.loads(out)
    assert code == 0
    assert {"environment", "model_name", "fingerprint"} <= found.keys()
    assert {"device", "shape and length"} <= {finding["probe"] for finding in found["findings"]}


def test_a_failure_is_exit_code_1(quick, monkeypatch, capsys):
    rope_shifted(monkeypatch)
    code, out, _ = run(capsys, "--device")
    assert code == 1
    assert "FAIL  rotary positions to 64" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "doctor examines a MODEL, this machine's device (--device), or both; say which"),
        (["--device", "--reference", "r.npz"], "--reference compares a MODEL's vectors; say which model"),
        (["--device", STATIC], f"--device takes gpu, cpu or nothing, not {STATIC!r}; a MODEL stands before it"),
    ],
)
def test_a_wrong_command_line(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"akidb-mlx: {message}") and err.count("\n") == 1


def test_the_configurations_model_is_meant_without_device(capsys, monkeypatch):
    monkeypatch.setenv("AKIDB_MLX_MODEL", STATIC)
    assert run(capsys)[0] == 0
