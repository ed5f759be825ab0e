"""The reference's scores for a reranker's folder, and checks that they tell right from wrong."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reranker_case import RerankerCase
from reranker_pairs import SHARED_PAIRS, fitted_pairs
from sentence_transformers import CrossEncoder

logging.getLogger("sentence_transformers").setLevel(logging.ERROR)

IDENTITY = torch.nn.Identity()
Pair = tuple[str, str]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> CrossEncoder:
    """The reference, computing in `dtype`: transformers 5 would else compute in the stored one."""
    return CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": dtype}).eval()


def load_case(case: RerankerCase, folder: Path, dtype: torch.dtype = torch.float32) -> CrossEncoder:
    """With the limit that the model has room for, where the files state a longer one."""
    model = load(folder, dtype)
    if model.max_seq_length > limit(case) and not model[0].processing_kwargs.get("text"):
        model.max_seq_length = limit(case)
    return model


def predict(model: CrossEncoder, pairs: list[Pair], **options: Any) -> np.ndarray:
    """Scores of each pair alone, so nothing is padded."""
    return np.array([model.predict([pair], batch_size=1, **options)[0] for pair in pairs], dtype=np.float32)


def logits_of(model: CrossEncoder, pairs: list[Pair], **options: Any) -> np.ndarray:
    return predict(model, pairs, activation_fn=IDENTITY, **options)


def features(model: CrossEncoder, pair: Pair, **text: Any) -> dict[str, Any]:
    """What the reference feeds its transformer for one pair, with its default prompt."""
    prompt = model._resolve_prompt(None, None)
    return model.preprocess([list(pair)], prompt=prompt, **({"processing_kwargs": {"text": text}} if text else {}))


def count_tokens(model: CrossEncoder, pair: Pair) -> int:
    """Tokens with special ones, before truncation."""
    return int(features(model, pair, truncation=False)["input_ids"].shape[-1])


def make_pairs(case: RerankerCase, model: CrossEncoder) -> tuple[dict[str, Pair], dict[str, str]]:
    """Pairs by label; and why labels are left out: no token at all, or what the reference raises."""
    fitted = fitted_pairs(lambda first, second: count_tokens(model, (first, second)), limit(case))
    pairs, left_out = {}, {}
    for label, pair in {**SHARED_PAIRS, **fitted, **case.own_pairs}.items():
        reason = why_left_out(case, model, pair)
        if reason:
            left_out[label] = reason
        else:
            pairs[label] = pair
    return pairs, left_out


def why_left_out(case: RerankerCase, model: CrossEncoder, pair: Pair) -> str:
    if not count_tokens(model, pair):
        return "no tokens"
    try:
        model.predict([pair])
    except Exception as error:
        if not case.refuses_some:
            raise
        return f"{type(error).__name__}: {str(error)[:100]}"
    return ""


def limit(case: RerankerCase) -> int:
    return case.usable_length or case.max_seq_length


def compute(case: RerankerCase, model: CrossEncoder, pairs: list[Pair]) -> dict[str, np.ndarray]:
    """`logits` before the activation and `scores` as `predict` gives them; with each further prompt `logits_NAME`."""
    rows = {"logits": logits_of(model, pairs), "scores": predict(model, pairs)}
    for name in case.prompts:
        if name != case.default_prompt_name:
            rows[f"logits_{name}"] = logits_of(model, pairs, prompt_name=name)
    return rows


def describe_rows(model: CrossEncoder, pairs: list[Pair]) -> dict[str, Any]:
    """Token ids, and where the second text's token type begins (None: no token types are fed)."""
    rows = [features(model, pair) for pair in pairs]
    types = [row["token_type_ids"][0].tolist() if "token_type_ids" in row else None for row in rows]
    starts = [None if row is None else row.index(1) if 1 in row else len(row) for row in types]
    for row, start in zip(types, starts, strict=True):
        assert row is None or row == [0] * start + [1] * (len(row) - start)
    return {"token_ids": [row["input_ids"][0].tolist() for row in rows], "second_type_from": starts}


def check_scores(case: RerankerCase, model: CrossEncoder, pairs: dict[str, Pair], rows: dict[str, np.ndarray]) -> None:
    """Finite, spread out, dependent on each text and their order, and not on the batch."""
    logits = rows["logits"]
    assert all(np.isfinite(values).all() for values in rows.values())
    assert logits.shape == ((len(pairs),) if model.num_labels == 1 else (len(pairs), model.num_labels))
    if not isinstance(model.activation_fn, torch.nn.Identity):
        assert np.abs(rows["scores"] - logits).max() > 1e-2, "the activation does not show"
    assert logits.std(axis=0).min() > 0.1, f"scores look alike: {logits.std(axis=0)}"
    place = {label: index for index, label in enumerate(pairs)}
    for other in {"answer first", "question and something else"} & set(pairs):
        difference = np.abs(logits[place["question and answer"]] - logits[place[other]]).max()
        assert difference > 1e-3, f"{other}: {difference}"
    if case.no_batch:
        return
    scale = max(1.0, float(np.abs(logits).max()))
    together = model.predict(list(pairs.values()), batch_size=len(pairs), activation_fn=IDENTITY)
    difference = np.abs(together - logits).max() / scale
    assert (difference > 1e-3) if case.batch_matters else (difference < 3e-6), f"batch differs by {difference}"


def check_lengths(case: RerankerCase, model: CrossEncoder, pairs: dict[str, Pair]) -> None:
    """The limit is where the case says it is."""
    for label, tokens in (("limit - 1", limit(case) - 1), ("limit", limit(case)), ("limit + 1", limit(case))):
        fed = features(model, pairs[label])["input_ids"].shape[-1]
        assert fed == tokens, f"{label}: {fed} tokens, not {tokens}"


def check_precision(model: CrossEncoder, pairs: list[Pair], logits: np.ndarray) -> float:
    """The reference's own rounding leaves room within a tolerance of 1e-5; leaves the model in float64."""
    exact = logits_of(model.double(), pairs)
    error = float(np.abs(exact - logits).max()) / max(1.0, float(np.abs(logits).max()))
    assert error < 4e-6, f"badly conditioned: float32 is off by {error}"
    return error


def moved_by_mistakes(case: RerankerCase, folder: Path, pairs: list[Pair], logits: np.ndarray) -> dict[str, float]:
    """Each named mistake moves the logits visibly; gives the largest difference by name."""
    # A pair without texts may have no token left, without a prompt.
    rows = [index for index, pair in enumerate(pairs) if any(pair)]
    moved = {}
    for name, mistake in case.mistakes.items():
        other = load_case(case, folder)
        mistake(other)
        moved[name] = float(np.abs(logits_of(other, [pairs[row] for row in rows]) - logits[rows]).max())
        assert moved[name] > 1e-3, f"{name} is not visible: {moved[name]}"
    return moved


def check_truncation(case: RerankerCase, model: CrossEncoder, pairs: dict[str, Pair], logits: np.ndarray) -> None:
    """Where both texts are cut, another split of the room moves the score: odd token first, or the query kept whole."""
    if not case.longest_first or "message" in model[0].modality_config:
        return
    room = limit(case) - count_tokens(model, ("", ""))
    assert room % 2 == 1, f"an even room of {room} tokens hides which text has the odd one"
    place = {label: index for index, label in enumerate(pairs)}
    wrong = {
        "equal lengths beyond the limit": (room - room // 2, room // 2),
        "both far beyond the limit": (room - 1, 1),
        "both long": (1, room - 1),
    }
    for label, keep in wrong.items():
        pair = tuple(cut(model, text, tokens) for text, tokens in zip(pairs[label], keep, strict=True))
        difference = np.abs(logits_of(model, [pair])[0] - logits[place[label]]).max()
        assert difference > 1e-3, f"{label}, split as {keep}: {difference}"


def cut(model: CrossEncoder, text: str, tokens: int) -> str:
    """The part of `text` that its first tokens stand for."""
    offsets = model.tokenizer(text, add_special_tokens=False, truncation=False, return_offsets_mapping=True)
    ends = [end for _, end in offsets["offset_mapping"]]
    return text[: ends[min(tokens, len(ends)) - 1]]
