"""What gives a reranker's scores: its task, the modules after the transformer, the activation. No MLX here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from akidb_mlx.checkpoint.chat_template import ChatTemplate, find_chat_template
from akidb_mlx.checkpoint.fact import Fact
from akidb_mlx.checkpoint.heads import ClassificationHead, HeadFacts, PooledHead, TokenLogitHead
from akidb_mlx.checkpoint.json_file import read_field, read_json
from akidb_mlx.checkpoint.layout import Layout
from akidb_mlx.checkpoint.modules import read_head
from akidb_mlx.checkpoint.tokenizer_facts import TokenizerFacts
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["Scoring", "read_activation", "read_scoring"]

Config = Mapping[str, Any]
Modules = Sequence[tuple[str, str]]
_ACTIVATIONS = {"Identity": "identity", "Sigmoid": "sigmoid", "Softmax": "softmax", "Tanh": "tanh"}
_CAUSAL = "ForCausalLM"


@dataclass(frozen=True)
class Scoring:
    """What a reranker's files say of its scores."""

    head: Fact[HeadFacts]
    num_labels: int
    chat: ChatTemplate | None


def read_scoring(layout: Layout, config: Config, tokenizer: TokenizerFacts, modules: Modules) -> Scoring:
    """The task of the transformer, by sentence-transformers' files, else by the architecture's name; and its head."""
    processing = tokenizer.processing
    task = _task(config, tokenizer.task, saved=bool(modules))
    chat = find_chat_template(layout.folder, config["model_type"], processing, saved=bool(modules))
    if task == "text-generation":
        if chat is None:
            raise UnsupportedModelError(
                f"{layout.folder} has no chat template in use: a language model reads a query and a document through "
                "one, and without it its scores mean nothing"
            )
        if processing.padding_side not in (None, "left"):
            raise UnsupportedModelError(
                f"{layout.folder}: padding_side {processing.padding_side!r} for a language model, whose scores are "
                "read from the last token"
            )
        head, labels = _read_logit_score(layout, modules), 1
    elif task == "sequence-classification":
        _refuse_more(layout, modules[1:], "a classifier's scores")
        labels = _labels(layout, config)
        _refuse_problem(layout, config, labels)
        head = Fact(ClassificationHead(labels), layout.relative(layout.config_file))
    else:
        head, labels = _read_dense_scores(layout, modules, in_a_row=chat is None)
    return Scoring(head, labels, chat)


def _task(config: Config, said: str | None, *, saved: bool) -> str:
    if saved:
        return said or "feature-extraction"
    return "text-generation" if _architecture(config).endswith(_CAUSAL) else "sequence-classification"


def _architecture(config: Config) -> str:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def _labels(layout: Layout, config: Config) -> int:
    if not _architecture(config).endswith("ForSequenceClassification"):
        return 1  # as the reference, whatever else is said
    named, count = config.get("id2label"), config.get("num_labels")
    if isinstance(named, dict) and named:
        if count not in (None, len(named)):
            raise CheckpointError(f"{layout.config_file}: num_labels is {count}, but id2label has {len(named)} names")
        return len(named)
    if count is not None:
        return read_field(layout.config_file, config, "num_labels", int)
    return 2  # transformers' default


def _refuse_problem(layout: Layout, config: Config, labels: int) -> None:
    """What transformers 5 makes no model of."""
    if labels == 1 and config.get("problem_type") == "single_label_classification":
        raise UnsupportedModelError(
            f"{layout.config_file}: problem_type is single_label_classification, but there is one label, which the "
            'reference refuses; set problem_type to "regression" where the one number is the score'
        )


def _read_logit_score(layout: Layout, modules: Modules) -> Fact[HeadFacts]:
    if not modules:
        yes, no = (_token_id(layout, token) for token in ("yes", "no"))
        return Fact(TokenLogitHead(yes, no), 'tokenizer.json: the tokens "yes" and "no"')
    if len(modules) != 2 or modules[1][0] != "LogitScore":
        _refuse_more(layout, modules[1:], "LogitScore")
    file = layout.path / modules[1][1] / "config.json"
    said = read_json(file)
    if said.get("module_input_name", "causal_logits") != "causal_logits":
        raise UnsupportedModelError(
            f"{file}: module_input_name {said['module_input_name']!r}: only causal_logits is supported"
        )
    true = read_field(file, said, "true_token_id", int)
    false = None
    if said.get("false_token_id") is not None:
        false = read_field(file, said, "false_token_id", int)
    if true == false:
        raise UnsupportedModelError(
            f"{file}: true_token_id and false_token_id are both {true}, so every score would be 0"
        )
    return Fact(TokenLogitHead(true, false), file.relative_to(layout.path).as_posix())


def _token_id(layout: Layout, token: str) -> int:
    said = read_json(layout.tokenizer_file)
    added = {entry.get("content"): entry.get("id") for entry in said.get("added_tokens") or []}
    vocabulary = (said.get("model") or {}).get("vocab")
    known = vocabulary if isinstance(vocabulary, dict) else {}
    number = added.get(token, known.get(token))
    if not isinstance(number, int):
        raise UnsupportedModelError(
            f"{layout.tokenizer_file} has no token {token!r}, and nothing else says which token means that a document "
            "answers the query: this is a language model, or a reranker whose files are not complete"
        )
    return number


def _read_dense_scores(layout: Layout, modules: Modules, *, in_a_row: bool) -> tuple[Fact[HeadFacts], int]:
    head = read_head(layout.path, list(modules), scores=True)
    if in_a_row and not head.include_prompt:
        raise UnsupportedModelError(
            f"{layout.path}: include_prompt is false: the reference leaves a prompt's tokens out of pooling, which is "
            "not supported for pairs"
        )
    if head.pooling is None or head.dense is None or head.left_out:
        raise UnsupportedModelError(f"{layout.path / 'modules.json'}: no module gives scores (Pooling, then Dense)")
    dense = head.dense.value
    return Fact(PooledHead(head.pooling.value, dense), head.dense.source), dense[-1].out_features


def _refuse_more(layout: Layout, rest: Modules, wanted: str) -> None:
    if rest or wanted == "LogitScore":
        found = ", ".join(kind for kind, _ in rest) or "nothing"
        raise UnsupportedModelError(
            f"{layout.path / 'modules.json'}: {found} after the transformer, where only {wanted} may be"
        )


def read_activation(layout: Layout, config: Config, labels: int, *, saved: bool) -> Fact[str]:
    """What makes scores of the model's numbers: the first place that says it, else sigmoid for a single label.

    A class that is not computed here stays as it is written: a user who knows better may set another.
    """
    for file, name in _said_activations(layout, config, saved=saved):
        if name is not None:
            return Fact(_activation(str(name)), file)
    return Fact(
        "sigmoid" if labels == 1 else "identity", "default for one label" if labels == 1 else "default for several"
    )


def _said_activations(layout: Layout, config: Config, *, saved: bool) -> list[tuple[str, Any]]:
    own = layout.path / "config_sentence_transformers.json"
    places = [(own.name, read_json(own).get("activation_fn"))] if saved and own.exists() else []
    file, nested = layout.relative(layout.config_file), config.get("sentence_transformers")
    if isinstance(nested, dict) and "activation_fn" in nested:
        return [*places, (file, nested["activation_fn"])]
    return [*places, (file, config.get("sbert_ce_default_activation_function"))]


def _activation(name: str) -> str:
    return _ACTIVATIONS.get(name.rpartition(".")[2], name) if name.startswith("torch.") else name
