"""Weights that torch.save wrote: the numbers that torch says they have, and nothing in a file is ever run."""

import io
import pickle
import random
import shutil
import struct
import tracemalloc
import zipfile
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.checkpoint import torch_archive, torch_pickle
from akidb_mlx.checkpoint.facts import read_checkpoint
from akidb_mlx.checkpoint.torch_zip import read_torch_arrays, read_torch_header
from akidb_mlx.errors import BackendError, CheckpointError, UnsupportedModelError
from akidb_mlx.model.weights import read_weights
from support.checkpoints import REFERENCE, read_case
from support.comparison import assert_close
from support.torch_files import Names, archived, pickled, tensor, torch_file

FILES = Path(__file__).parent / "torch_files"
EXPECTED = np.load(FILES / "expected.npz")
REFUSALS = (CheckpointError, UnsupportedModelError)


def arrays_of(file):
    return {name: (dtype, array) for names, dtype, array in read_torch_arrays(file) for name in names}


# ── what torch says they hold ──


@pytest.mark.parametrize("file", ["tensors.bin", "tensors-protocol-4.bin"])
def test_every_dtype_and_layout(file):
    found = arrays_of(FILES / file)
    assert found.keys() == set(EXPECTED.files)
    for name, (dtype, array) in found.items():
        expected = EXPECTED[name]
        assert array.shape == expected.shape, name
        assert array.dtype == (np.uint8 if dtype == "BOOL" else expected.dtype), name
        assert np.array_equal(array, expected), name
        assert array.flags.c_contiguous and array.flags.aligned, name


def test_the_header_says_dtypes_shapes_and_sizes():
    header = read_torch_header(FILES / "tensors.bin")
    for name, said in header.items():
        assert said["shape"] == list(EXPECTED[name].shape)
        assert said["data_offsets"] == [0, EXPECTED[name].nbytes]
    short = {"uint": "U", "int": "I", "bfloat": "BF", "float": "F"}
    for name in (name for name in header if name.startswith("dtype.")):
        kind = name.removeprefix("dtype.")
        letters = kind.rstrip("0123456789")
        assert header[name]["dtype"] == short.get(letters, "BOOL") + kind.removeprefix(letters)


def test_every_dtype_in_mlx():
    found = read_weights([FILES / "tensors.bin"])
    for name, values in found.items():
        expected = EXPECTED[name]
        assert values.shape == expected.shape, name
        if "bfloat16" in name:
            assert values.dtype == mx.bfloat16
            assert np.array_equal(np.array(values.view(mx.uint16)), expected), name
        else:
            kind = "float32" if expected.dtype == np.float64 else str(expected.dtype)
            assert str(values.dtype).removesuffix("_") == f"mlx.core.{kind}", name
            assert np.array_equal(np.array(values), expected.astype(kind)), name
    assert found["tied.a"] is found["tied.b"] is found["tied.data"]  # in memory once


def test_a_state_dict_with_its_versions_written_to_a_stream():
    found = arrays_of(FILES / "state-dict.bin")
    assert found["0.weight"][1].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert found["0.bias"][1].tolist() == [0, 1, 2]
    assert list(found) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_large_tensors_are_mapped_not_copied():
    for name, (_, array) in arrays_of(FILES / "bert-cls.bin").items():
        assert not array.flags.owndata and not array.flags.writeable, name


# ── checkpoints ──


def copy_of(name, folder):
    """The reference checkpoint without safetensors."""
    shutil.copytree(REFERENCE / name, folder)
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    return folder


@pytest.fixture
def single(tmp_path):
    folder = copy_of("bert-cls", tmp_path / "model")
    shutil.copy(FILES / "bert-cls.bin", folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def sharded(tmp_path):
    folder = copy_of("bert-cls", tmp_path / "model")
    shutil.copytree(FILES / "bert-cls-shards", folder, dirs_exist_ok=True)
    return folder


@pytest.fixture
def dense(tmp_path):
    folder = copy_of("bert-dense", tmp_path / "model")
    shutil.copy(FILES / "bert-dense.bin", folder / "pytorch_model.bin")
    shutil.copy(FILES / "bert-dense-2_Dense.bin", folder / "2_Dense" / "pytorch_model.bin")
    return folder


@pytest.fixture
def static(tmp_path):
    folder = copy_of("static-root", tmp_path / "model")
    shutil.copy(FILES / "static-root.bin", folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize(
    ("fixture", "case"),
    [("single", "bert-cls"), ("sharded", "bert-cls"), ("dense", "bert-dense"), ("static", "static-root")],
)
def test_the_same_rows_as_with_safetensors(fixture, case, request):
    folder, facts, reference = read_case(case)
    with Embedder.load(folder, dtype="float32") as embedder:
        expected, info = embedder.encode(facts["texts"]), embedder.info()
    with Embedder.load(request.getfixturevalue(fixture), dtype="float32") as embedder:
        found = embedder.encode(facts["texts"])
        for key in ("dimension", "stored_dtype", "dense", "pooling"):
            assert embedder.info().get(key) == info.get(key)
        assert len(embedder.fingerprint) == 64
    assert np.array_equal(found, expected)
    assert_close(found, reference["embeddings"], 1e-5)


def test_safetensors_win(single):
    shutil.copy(REFERENCE / "bert-cls" / "model.safetensors", single)
    (single / "pytorch_model.bin").write_bytes(b"not read")
    assert [file.name for file in read_checkpoint(single).weight_files] == ["model.safetensors"]


def test_a_shard_that_is_missing(sharded):
    (sharded / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match=r"lacks pytorch_model-00002-of-00002.bin; download"):
        read_checkpoint(sharded)


def test_an_index_that_lists_nothing(sharded):
    (sharded / "pytorch_model.bin.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin.index.json has no weight_map"):
        read_checkpoint(sharded)


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(single, monkeypatch):
    monkeypatch.setattr("akidb_mlx.model.loading.read_weights", lambda files: pytest.fail("it was read"))
    (single / "pytorch_model.bin").write_bytes(large_file())
    with pytest.raises(BackendError, match=r"its weights take 0\.00 GB in float32"):
        Embedder.load(single, memory_limit_mb=1)


# ── refused ──


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("complex", "names torch.ComplexFloatStorage;"),
        ("conjugate", "conjugate or negated"),
        ("empty", "does not hold names and tensors"),
        ("expanded", "has a tensor with one number in several places, a;"),
        ("float8", "names torch.float8_e4m3fn;"),
        ("module", "names torch.nn.modules.linear.Linear;"),
        ("nested", "has dict where tensors are, called state_dict;"),
        ("number", "has int where tensors are, called epoch;"),
        ("sparse", "names torch._utils._rebuild_sparse_tensor;"),
        ("tensor", "does not hold names and tensors"),
        ("torchscript", "has a compressed entry"),
        ("training", "names __main__.OfItsOwn;"),
    ],
)
def test_what_torch_writes_and_is_not_read(name, said):
    with pytest.raises(UnsupportedModelError) as caught:
        read_torch_header(FILES / f"refused-{name}.bin")
    assert said in str(caught.value)
    assert "nothing of it was run" in str(caught.value) and "\n" not in str(caught.value)


def test_the_form_before_zip_is_refused_with_the_command_that_converts_it(single):
    shutil.copy(FILES / "before-1.6.bin", single / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError) as caught:
        Embedder.load(single)
    said = str(caught.value)
    assert "torch before 1.6" in said and "\n" not in said
    command = said.partition('python -c "')[2].removesuffix('"')
    compile(command, "the command", "exec")
    assert "weights_only=True" in command and str(single / "model.safetensors") in command


ARGUMENTS = tensor().arguments[0]


def large_file():
    """A megabyte and a half."""
    return torch_file({"a": tensor(shape=(400_000,), stride=(1,), count=400_000)}, bytes(1_600_000))


def refusal(tmp_path, content):
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(content)
    with pytest.raises(REFUSALS) as caught:
        list(read_torch_arrays(file))
    said = str(caught.value)
    assert said.startswith(str(file)) and "\n" not in said and len(said) < len(str(file)) + 400
    return said.removeprefix(f"{file} ")


def test_the_tests_own_files_are_read(tmp_path):
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(torch_file())
    assert arrays_of(file)["a"][1].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": 1},
        {"offset": -1},
        {"offset": 2**62},
        {"offset": 2**80},
        {"offset": 0.0},
        {"offset": True},
        {"offset": None},
        {"shape": (2, 4)},
        {"shape": (3, 3)},
        {"shape": (2**31, 0)},
        {"shape": (0, 2**30, 2**30, 2**30), "stride": (1, 1, 1, 1)},
        {"shape": (2**62, 2**62)},
        {"shape": (2**64,), "stride": (0,)},
        {"shape": (-2, -3)},
        {"shape": (-1, 3)},
        {"shape": (2, "3")},
        {"shape": [2, 3]},
        {"shape": (2,)},
        {"shape": None},
        {"shape": (1,) * 40, "stride": (1,) * 40},
        {"stride": (3, 2)},
        {"stride": (4, 1)},
        {"stride": (-3, 1)},
        {"stride": (3, -1)},
        {"stride": (2, 1)},
        {"stride": (1, 1)},
        {"stride": (0, 1)},
        {"stride": (0, 0)},
        {"stride": (2**63, 1)},
        {"stride": (2**61, 1)},
        {"shape": (1, 3), "stride": (-1, 1)},
        {"stride": 3},
        {"stride": (3, 1, 1)},
        {"count": 7},
        {"count": 5},
        {"count": -6},
        {"count": 6.0},
        {"count": 2**70},
        {"kind": "DoubleStorage"},
        {"kind": "HalfStorage"},
        {"key": "1"},
        {"key": "../data/0"},
        {"key": "/etc/passwd"},
        {"key": 0},
    ],
    ids=str,
)
def test_a_view_that_its_storage_does_not_hold(changes, tmp_path):
    refusal(tmp_path, torch_file({"a": tensor(**changes)}))


def test_the_stride_of_one_row_is_never_taken(tmp_path):
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(torch_file({"a": tensor(shape=(1, 3), stride=(2**62, 2))}))
    assert arrays_of(file)["a"][1].tolist() == [[0, 2, 4]]


def test_views_that_share_bytes_without_end(tmp_path):
    """Each is good, and together they take a hundred times the file."""
    views = {f"{i}": tensor(offset=i, shape=(10_000,), stride=(1,), count=20_000) for i in range(200)}
    assert "more memory than" in refusal(tmp_path, torch_file(views, bytes(80_000)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"PK", "cut short"),
        (bytes(3000), "cut short"),
        (torch_file()[:-1], "torn"),
        (torch_file()[:-30], "cut short"),
        (b"x" + torch_file(), "directory"),
        (archived({"data.pkl": pickled({"a": tensor()})}, compression=zipfile.ZIP_DEFLATED), "compressed"),
        (archived({"data.pkl": b"", "../b/data/0": b""}), "called 'archive/../b/data/0'"),
        (archived({"archive/data.pkl": b"", "other/data/0": b""}, folder=""), "not in one folder"),
        (archived({"data.pkl": b""}, folder=""), "not in one folder"),
        (archived({"/data.pkl": b""}, folder=""), "called '/data.pkl'"),
        (archived({"data\\0": b""}), r"called 'archive/data\\0'"),
        (archived({"data\n0": b""}), r"called 'archive/data\n0'"),
        (archived({"x" * 300: b""}), "called 'archive/xxx"),
        (archived({"data/0": b""}), "has no data.pkl"),
        (archived({"data.pkl": b"\x80\x02."}), "its pickle is torn"),
        (torch_file(byteorder=b"big"), "little-endian"),
        (archived({"data.pkl": bytes(5 << 20)}), "at most 4194304 are read"),
        (archived({"data.pkl": b"\x80\x02" + b"}" * 500_000 + b"."}), "more than 400,000 steps"),
        (archived({"data.pkl": b"\x80\x02" + b"(" * 390_000 + b"."}), "torn"),
        (archived({"data.pkl": b"\x80\x02)" + b"\x85" * 390_000 + b"."}), "does not hold names and tensors"),
        (archived({"data.pkl": b"\x80\x02}r\xff\xff\xff\xff."}), "does not hold names and tensors"),
        (archived({"data.pkl": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f."}), "cut short"),
        (archived({"data.pkl": b"\x80\x02\x8b\xff\xff\xff\x7f."}), r"opcode b'\x8b'"),
        (archived({"data.pkl": b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f."}), r"opcode b'\x96'"),
        (archived({"data.pkl": b"\x80\x02\x8a\x01\x01."}), "does not hold names and tensors"),
        (archived({"data.pkl": b"\x80\x02(" + pickled({"a": tensor()})[2:], "data/0": bytes(24)}), "torn"),
        (torch_file({"a": Names("torch._utils", "_rebuild_tensor_v2", (*ARGUMENTS, None, None, None))}), "torn"),
        (torch_file({5: tensor()}), "in place of a str"),
        (torch_file({"a\nb": tensor()}), "whose name is no text"),
        (torch_file({"a" * 2000: tensor()}), "whose name is no text"),
    ],
)  # fmt: skip
def test_torn_and_made_up_files(content, said, tmp_path):
    assert said in refusal(tmp_path, content)


def test_a_local_header_that_is_none(tmp_path):
    assert "not where its directory says" in refusal(tmp_path, torch_file().replace(b"PK\3\4", b"PK\3\5"))


def test_an_entry_that_reaches_into_the_directory(tmp_path):
    content = bytearray(torch_file())
    last = content.rindex(b"PK\1\2")
    struct.pack_into("<II", content, last + 20, 100, 100)
    assert "data/0 lies beyond its end" in refusal(tmp_path, bytes(content))


def test_a_directory_of_too_many_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_archive, "_MOST_ENTRIES", 1)
    assert "lists 2 entries" in refusal(tmp_path, torch_file())


def edited(at, value, form="<H"):
    """The first directory entry or the end with another number."""
    content = bytearray(torch_file())
    where = content.index(b"PK\1\2") if at < 100 else content.index(b"PK\5\6")
    struct.pack_into(form, content, where + at % 100, value)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (edited(8, 1), "encrypted"),
        (edited(10, 8), "compressed"),
        (edited(24, 2**31, "<I"), "compressed"),
        (edited(28, 0xFFFF), "torn"),
        (edited(42, 2**31, "<I"), "lies beyond its end"),
        (edited(42, 5, "<I"), "not where its directory says"),
        (edited(110, 9), "torn"),
        (edited(112, 2**32 - 1, "<I"), "torn"),
        (edited(116, 2**32 - 1, "<I"), "torn"),
    ],
)
def test_an_archive_with_other_numbers(content, said, tmp_path):
    assert said in refusal(tmp_path, content)


def test_entries_that_share_bytes(tmp_path):
    """The pickle's size reaches into the next entry."""
    content = bytearray(torch_file())
    where = content.index(b"PK\1\2")
    (size,) = struct.unpack_from("<I", content, where + 20)
    struct.pack_into("<II", content, where + 20, size + 50, size + 50)
    assert "share bytes" in refusal(tmp_path, bytes(content))


def test_an_entry_twice(tmp_path):
    stream = io.BytesIO(torch_file())
    with zipfile.ZipFile(stream, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data/0", bytes(24))
    assert "twice" in refusal(tmp_path, stream.getvalue())


def test_a_directory_in_64_bits(tmp_path, monkeypatch):
    """As files above 4 GB have it."""
    for name, value in (("ZIP64_LIMIT", 0), ("ZIP_FILECOUNT_LIMIT", 0)):
        monkeypatch.setattr(zipfile, name, value)
    file = tmp_path / "pytorch_model.bin"
    content = torch_file()
    assert b"PK\6\6" in content and b"\xff\xff\xff\xff" in content[content.index(b"PK\1\2") :]
    file.write_bytes(content)
    assert arrays_of(file)["a"][1].tolist() == [[0, 1, 2], [3, 4, 5]]


# ── code ──


def payloads(trace):
    """Pickles that make a folder in `pickle.load`, by the step that does it, and what the refusal says of them."""
    where = str(trace).encode()
    where = b"X" + struct.pack("<I", len(where)) + where
    return {
        "reduce": (b"\x80\x02cos\nmkdir\n" + where + b"\x85R.", "names os.mkdir;"),
        "reduce in a dict": (b"\x80\x02}X\1\0\0\0acos\nmkdir\n" + where + b"\x85Rs.", "names os.mkdir;"),
        "protocol 4": (b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93" + where + b"\x85R.", "names os.mkdir;"),
        "inst": (b"(" + where + b"ios\nmkdir\n.", "has a pickle with opcode b'i';"),
        "obj": (b"\x80\x02(cos\nmkdir\n" + where + b"o.", "names os.mkdir;"),
        "newobj": (b"\x80\x02cpathlib\nPath\n" + where + b"\x85\x81.", "names pathlib.Path;"),
        "eval": (b"\x80\x02cbuiltins\neval\nX\1\0\0\x001\x85R.", "names builtins.eval;"),
        "torch.load within": (b"\x80\x02ctorch.storage\n_load_from_bytes\n.", "names torch.storage._load_from_bytes;"),
        "extension": (b"\x80\x02\x82\x01.", "has a pickle with opcode b'\\x82';"),
        "build": (b"\x80\x02}}X\1\0\0\0aK\1sb.", "has a pickle that sets attributes;"),
    }  # fmt: skip


RUN = ("reduce", "reduce in a dict", "protocol 4", "inst", "obj")


@pytest.mark.parametrize("kind", payloads(Path("x")))
def test_nothing_is_run(kind, tmp_path):
    trace = tmp_path / "was-run"
    content, said = payloads(trace)[kind]
    answer = refusal(tmp_path, archived({"data.pkl": content}))
    assert said in answer and "nothing of it was run" in answer
    assert not trace.exists()


@pytest.mark.parametrize("kind", RUN)
def test_the_payloads_work(kind, tmp_path):
    """In Python's own unpickler, that is; else the tests of ours would say nothing."""
    trace = tmp_path / "was-run"
    pickle.loads(payloads(trace)[kind][0])
    assert trace.exists()


@pytest.mark.parametrize(
    ("fixture", "file"),
    [
        ("single", "pytorch_model.bin"),
        ("sharded", "pytorch_model-00001-of-00002.bin"),
        ("sharded", "pytorch_model-00002-of-00002.bin"),
        ("dense", "pytorch_model.bin"),
        ("dense", "2_Dense/pytorch_model.bin"),
        ("static", "pytorch_model.bin"),
    ],
)
@pytest.mark.parametrize("form", ["zip", "before zip"])
def test_nothing_is_run_wherever_weights_lie(fixture, file, form, tmp_path, request):
    folder, trace = request.getfixturevalue(fixture), tmp_path / "was-run"
    content = payloads(trace)["reduce in a dict"][0]
    (folder / file).write_bytes(archived({"data.pkl": content}) if form == "zip" else content)
    with pytest.raises(UnsupportedModelError) as caught:
        Embedder.load(folder)
    assert str(folder / file) in str(caught.value)
    assert ("nothing of it was run" if form == "zip" else "weights_only=True") in str(caught.value)
    assert not trace.exists()


def test_no_other_unpickler_is_used(monkeypatch, dense):
    """Neither Python's nor NumPy's by way of it."""
    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *_, **__: pytest.fail("a pickle was loaded"))
    with Embedder.load(dense) as embedder:
        embedder.encode(["a"])


# ── chance ──


def mutated(source, chance):
    """One to four edits: bytes changed, cut, doubled, put in, or opcodes and extreme numbers."""
    content = bytearray(source)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(content) or 1)
        what = chance.randrange(6)
        if what == 0:
            content[at : at + 1] = bytes([chance.randrange(256)])
        elif what == 1:
            del content[at : at + chance.randint(1, 40)]
        elif what == 2:
            content[at:at] = content[at : at + chance.randint(1, 40)]
        elif what == 3:
            content[at : at + 4] = chance.choice((b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f", b"\0\0\0\x80"))
        elif what == 4:
            content[at : at + 1] = chance.choice(b"RbcioQ0123ltd}])(u\x81\x82\x85\x8a\x8b\x93\x94.qrhj").to_bytes()
        else:
            other = chance.randrange(len(content) or 1)
            length = chance.randint(1, 60)
            content[at : at + length] = content[other : other + length]
    return bytes(content)


def test_ten_thousand_mutated_files(tmp_path):
    """Half in the pickle alone, half anywhere: an array or one of the two errors, in bounded memory."""
    chance = random.Random(20260)
    trace = tmp_path / "was-run"
    sources = [whole_and_parts(FILES / name) for name in ("state-dict.bin", "tensors.bin")]
    evil = [content for content, _ in payloads(trace).values()]
    outcomes = {"read": 0, "CheckpointError": 0, "UnsupportedModelError": 0}
    peak = 0
    for number in range(10_000):
        whole, entries = sources[number % 10 == 0]
        file = tmp_path / f"{number}.bin"
        if number % 2:
            file.write_bytes(mutated(whole, chance))
        else:
            plain = entries["data.pkl"]
            source = plain[:-1] + chance.choice(evil)[2:] if number % 8 == 0 else plain
            file.write_bytes(archived(entries | {"data.pkl": mutated(source, chance)}))
        if number % 50 == 0:
            tracemalloc.start()
        try:
            for _, _, array in read_torch_arrays(file):
                array.sum()
            outcomes["read"] += 1
        except REFUSALS as error:
            outcomes[type(error).__name__] += 1
            assert "\n" not in str(error)
        file.unlink()
        if tracemalloc.is_tracing():
            peak = max(peak, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert not trace.exists()
    assert min(outcomes.values()) > 500, outcomes  # they reach every answer
    assert peak < 2e6


def whole_and_parts(file):
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename.split("/", 1)[1]: archive.read(info) for info in archive.infolist()}
    return file.read_bytes(), {name: content for name, content in entries.items() if name.startswith("data")}


@pytest.mark.parametrize("step", [b"(", b"}q\1"])
def test_the_largest_pickle_takes_bounded_memory(step, tmp_path):
    """Megabytes of one step: a hundred megabytes at most, and seconds."""
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(
        archived({"data.pkl": b"\x80\x02}q\0" + step * ((torch_pickle.MOST_BYTES - 10) // len(step)) + b"."})
    )
    tracemalloc.start()
    with pytest.raises(REFUSALS):
        read_torch_header(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6
