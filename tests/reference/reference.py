"""The reference's vectors for a checkpoint folder, and checks that they tell right from wrong."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from case import Case
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from corpus import PARAGRAPHS, TEXT, WORDS

logging.getLogger("sentence_transformers").setLevel(logging.ERROR)

SHORT_TEXTS = {
    "empty": "",
    "one letter": "a",
    "one word": "harbour",
    "sentence": "Snow fell through the night.",
    "question": "Which trees grow in the garden?",
    "spaces": "  two  spaces\tand a tab\nand a line  ",
    "unicode": "Café naïve Straße, Ελλάδα, 東京 and 日本語!",
    "emoji": "tea 🍵 and trains 🚂👩‍🔬",
    "capitals": "THE ORCHESTRA TUNES",
}
FAR_BEYOND = 300  # tokens


def load(folder: Path, dtype=torch.float32, amend=None, **config) -> SentenceTransformer:
    """The reference, computing in `dtype`: transformers 5 would else compute in the stored one.

    `amend` changes the transformer, where a checkpoint's own code computes something else than the class.
    """
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": dtype}, config_kwargs=config or None)
    if amend is not None:
        amend(model[0].model)
    return model.eval()


def make_texts(model: SentenceTransformer, lengths: Sequence[int] = ()) -> tuple[dict[str, str], list[str]]:
    """Texts by label, of `lengths` tokens and around and far beyond the limit; and those that have no token."""
    limit = model.max_seq_length
    texts = {label: text for label, text in SHORT_TEXTS.items() if count_tokens(model, text)}
    for index, tokens in enumerate(lengths):
        texts[f"{tokens} tokens"] = text_of_length(model, tokens, PARAGRAPHS[index % len(PARAGRAPHS)])
    texts["half the limit"] = text_of_length(model, limit // 2, PARAGRAPHS[1])
    texts["limit - 1"] = text_of_length(model, limit - 1, PARAGRAPHS[5])
    texts["limit"] = text_of_length(model, limit, PARAGRAPHS[6])
    texts["limit + 1"] = text_of_length(model, limit + 1, PARAGRAPHS[7])
    texts["far beyond the limit"] = text_of_length(model, limit + FAR_BEYOND, TEXT)
    return texts, [text for text in SHORT_TEXTS.values() if text not in texts.values()]


def count_tokens(model: SentenceTransformer, text: str) -> int:
    """Tokens with the special ones, or with the chat template, before truncation."""
    if "message" not in model[0].modality_config:
        return len(model.tokenizer.backend_tokenizer.encode(text).ids) if untruncated(model) else 0
    arguments = {**model[0].processing_kwargs.get("chat_template", {})}
    arguments.pop("restore_suffix", None)
    messages = model[0].input_formatter.to_message({"text": text})
    return len(model.tokenizer.apply_chat_template(messages, tokenize=True, **arguments)["input_ids"])


def untruncated(model: SentenceTransformer) -> bool:
    model.tokenizer.backend_tokenizer.no_truncation()
    model.tokenizer.backend_tokenizer.no_padding()
    return True


def text_of_length(model: SentenceTransformer, tokens: int, source: str) -> str:
    """A text of exactly `tokens` tokens: words of `source`, then single letters and marks until it fits."""
    text = ""
    for word in [*source.split(), *WORDS * 3]:
        longer = f"{text} {word}".strip()
        if count_tokens(model, longer) > tokens:
            break
        text = longer
    for filler in (" a", ".", " .", "a", " i", "!", "?") * 8:
        if count_tokens(model, text) == tokens:
            return text
        if count_tokens(model, text + filler) <= tokens:
            text += filler
    raise AssertionError(f"no text of {tokens} tokens")


def compute(case: Case, model: SentenceTransformer, texts: list[str]) -> dict[str, np.ndarray]:
    """`embeddings`, with prompts also `query` and `document`; each text alone, so nothing is padded."""
    alone = {"batch_size": 1, "convert_to_numpy": True}
    vectors = {"embeddings": model.encode(texts, **alone)}
    if case.prompts:
        vectors["query"] = model.encode_query(texts, **alone)
        # Our one deliberate difference: a "passage" prompt counts where the document prompt is absent or
        # empty; sentence-transformers always has a document prompt, if an empty one, and stops there.
        passage = next((name for name in ("document", "passage", "corpus") if case.prompts.get(name)), None)
        if passage in (None, "document"):
            vectors["document"] = model.encode_document(texts, **alone)
        else:
            vectors["document"] = model.encode(texts, prompt_name=passage, **alone)
    return {name: rows.astype(np.float32) for name, rows in vectors.items()}


def token_ids(model: SentenceTransformer, texts: list[str]) -> list[list[int]]:
    """What the reference feeds its model for each text alone."""
    return [model.preprocess([text])["input_ids"][0].tolist() for text in texts]


def check_vectors(case: Case, model: SentenceTransformer, texts: list[str], vectors: Mapping[str, np.ndarray]) -> None:
    """Finite, independent of the batch, and different for different texts, prompts and poolings."""
    embeddings = vectors["embeddings"]
    assert all(np.isfinite(rows).all() for rows in vectors.values())
    scale = max(1.0, float(np.abs(embeddings).max()))
    together = np.abs(model.encode(texts, batch_size=len(texts)) - embeddings).max() / scale
    differs = case.padding_matters or case.neighbours_matter
    assert (together > 1e-3) if differs else (together < 3e-6), f"batch differs by {together}"
    cosines = cosine(embeddings)[np.triu_indices(len(texts), 1)]
    assert np.median(cosines) < 0.99, f"texts look alike: median cosine {np.median(cosines)}"
    if case.default_prompt_name:
        assert np.abs(embeddings - vectors["document"]).max() > 1e-2 * scale
    distinct = [case.prompts.get(name, "") for name in ("query", "document")]
    if case.prompts and distinct[0] != distinct[1]:
        assert np.abs(vectors["query"] - vectors["document"]).max() > 1e-2 * scale


def check_pooling(case: Case, model: SentenceTransformer, texts: list[str], embeddings: np.ndarray) -> None:
    """Every other pooling mode gives visibly other vectors."""
    pooling = model[1]
    own = pooling.pooling_mode
    for mode in pooling.POOLING_MODES:
        if mode in case.pooling_modes or len(case.pooling_modes) > 1:
            continue
        keeps_direction = all(not dense.bias and dense.activation.endswith("Identity") for dense in case.dense)
        if case.normalize and keeps_direction and {mode, own} == {"mean", "mean_sqrt_len_tokens"}:
            continue  # these two differ in length only
        pooling.pooling_mode = mode
        difference = np.abs(model.encode(texts, batch_size=1) - embeddings).max()
        assert difference > 1e-2, f"{mode} pooling looks like {own}: {difference}"
    pooling.pooling_mode = own


@torch.inference_mode()
def check_order(case: Case, model: SentenceTransformer) -> None:
    """Positions matter, and the first token sees the next one exactly where attention is not causal."""
    text = " ".join(WORDS[:6])
    reverse = " ".join(reversed(WORDS[:6]))
    assert np.abs(model.encode([text]) - model.encode([reverse])).max() > 1e-2
    ids = model.preprocess([text])["input_ids"]
    changed = ids.clone()
    changed[0, 1] = 7 if ids[0, 1] != 7 else 8
    first, second = (model[0].model(input_ids=row).last_hidden_state[0, 0] for row in (ids, changed))
    sees_ahead = float((first - second).abs().max()) > 1e-4
    assert sees_ahead is not case.causal, f"first token {'sees' if sees_ahead else 'does not see'} the next one"


def check_precision(model: SentenceTransformer, texts: list[str], embeddings: np.ndarray) -> None:
    """The reference's own rounding leaves room within a tolerance of 1e-5; leaves the model in float64."""
    if any(".experts." in name for name, _ in model.named_parameters()) and hasattr(
        model[0].model, "set_experts_implementation"
    ):
        model[0].model.set_experts_implementation("eager")  # the default's product is not there in float64
    exact = model.double().encode(texts, batch_size=1)
    error = np.abs(exact - embeddings).max() / max(1.0, float(np.abs(embeddings).max()))
    assert error < 3e-6, f"badly conditioned: float32 is off by {error}"


def check_changes_show(case: Case, folder: Path, texts: list[str], embeddings: np.ndarray) -> dict[str, float]:
    """Each named change moves the vectors visibly; gives the largest difference by name."""
    moved = {}
    for name, change in case.must_matter.items():
        other = load(folder, amend=case.amend, **({} if callable(change) else change))
        if callable(change):
            change(other[0] if case.template else other[0].model)
        moved[name] = float(np.abs(other.encode(texts, batch_size=1) - embeddings).max())
        assert moved[name] > 1e-3, f"{name} is not visible: {moved[name]}"
    return moved


def check_tokenizer_file(
    case: Case, folder: Path, model: SentenceTransformer, texts: list[str], *, rebuilt: bool
) -> None:
    """tokenizer.json alone, truncated to the right of the limit, gives the reference's token ids, or plainly others."""
    tokenizer = Tokenizer.from_file(str(folder / case.transformer_folder / "tokenizer.json"))
    tokenizer.enable_truncation(model.max_seq_length)
    tokenizer.no_padding()
    # sentence-transformers puts its Lowercase before the tokenizer's own normalizer.
    encoded = [tokenizer.encode(text.lower() if case.lowercase else text).ids for text in texts]
    assert (encoded != token_ids(model, texts)) is rebuilt


def cosine(rows: np.ndarray) -> np.ndarray:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit @ unit.T
