"""What must be refused, as edits of good folders: `REFUSED`, written to rerankers/refused.json with what the reference does.

python reranker_refusals.py
"""
# ruff: noqa: E501 -- a refusal a row reads as a table; the environment is set before the imports that read it.

import json
import logging
import os
import shutil
import tempfile
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import torch
import transformers as hf
from case import edit_json, edit_weights, write_facts
from reranker_edits import apply
from reranker_reference import load
from reranker_templates import ANSWER, BEGIN, COLLECT

HERE = Path(__file__).parent
REPLACED, ROLES = "torch.nn.modules.activation", ("system", "user", "assistant")
QUERY_ONLY = (COLLECT + BEGIN + ANSWER).replace("<Document>: {{ task.document }}", "")
CHAT_ONLY = "{% for message in messages %}{% if message.role in ['system', 'user', 'assistant'] %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endif %}{% endfor %}"
FOREIGN = "mypackage.activations.Scaled"


@dataclass(frozen=True)
class Refused:
    """A folder that must be refused: the folder that it is a copy of, and the edits in their order."""

    name: str
    why: str
    source: str  # a folder of tests/reference
    remove: tuple[str, ...] = ()  # files and folders
    json: dict[str, dict[str, Any]] = field(default_factory=dict)  # file → keys to set; null takes a key away
    text: dict[str, str] = field(default_factory=dict)  # file → its whole content
    copy: dict[str, str] = field(default_factory=dict)  # file → a file of tests/reference
    drop_weights: tuple[str, ...] = ()
    add_weights: dict[str, tuple[int, ...]] = field(default_factory=dict)  # name → shape, all 0.5


def custom_code(name: str) -> dict[str, Any]:
    return {"auto_map": {"AutoModelForSequenceClassification": f"modeling.{name}"}, "architectures": [name]}


# fmt: off
REFUSED = (
    # Chat templates and the two tokens
    Refused("template-loses-document", "the template prints the query alone", "rerankers/qwen3-reranker", text={"chat_template.jinja": QUERY_ONLY}),
    Refused("template-without-roles", "an ordinary chat template: both texts are lost", "rerankers/qwen3-reranker", text={"chat_template.jinja": CHAT_ONLY}),
    Refused("template-without-roles-plain", "the same without modules.json", "rerankers/qwen3-reranker-plain", json={"tokenizer_config.json": {"chat_template": CHAT_ONLY}}),
    Refused("classifier-template-without-roles", "a classifier's plain folder with an ordinary chat template, as fine-tuned chat models have", "rerankers/qwen3-classifier", text={"chat_template.jinja": CHAT_ONLY}),
    Refused("template-that-fails", "the template is no Jinja", "rerankers/qwen3-reranker", text={"chat_template.jinja": "{% for message in messages %}{{ message.content }}"}),
    Refused("template-runs-code", "the template reaches for Python's internals, which the sandbox forbids", "rerankers/qwen3-reranker",
            text={"chat_template.jinja": "{{ messages[0].content }}{{ messages[1].content }}{{ ''.__class__.__mro__ }}"}),
    Refused("no-template", "modules.json says that pairs are messages, but no template is there", "rerankers/qwen3-reranker", remove=("chat_template.jinja",)),
    Refused("no-template-plain", "a causal model without a template: query and document are joined, which no reranker was trained for", "rerankers/qwen3-reranker-plain",
            json={"tokenizer_config.json": {"chat_template": None}}),
    Refused("several-templates", "additional_chat_templates make the template a dictionary; the message format is then guessed as structured", "rerankers/qwen3-reranker-plain",
            text={"additional_chat_templates/tools.jinja": CHAT_ONLY, "chat_template.jinja": COLLECT + BEGIN + ANSWER}),
    Refused("only-named-templates", "a classifier's templates are all in additional_chat_templates, none is the default", "rerankers/qwen3-classifier",
            text={"additional_chat_templates/tools.jinja": CHAT_ONLY}),
    Refused("suffix-fills-the-limit", "the template's end is longer than the limit: every pair gets one score", "rerankers/qwen2-reranker", json={"tokenizer_config.json": {"model_max_length": 8}}),
    Refused("equal-ids", "true and false are one token: 0.5 for every pair", "rerankers/qwen3-reranker", json={"1_LogitScore/config.json": {"true_token_id": 258, "false_token_id": 258}}),
    Refused("id-beyond-the-vocabulary", "no such token", "rerankers/qwen3-reranker", json={"1_LogitScore/config.json": {"true_token_id": 100000}}),
    Refused("id-negative", "Python would count from the end", "rerankers/qwen3-reranker", json={"1_LogitScore/config.json": {"true_token_id": -1}}),
    Refused("yes-is-no-token", "without modules.json the tokens yes and no must exist", "rerankers/qwen3-reranker-plain", copy={"tokenizer.json": "rerankers/qwen3-classifier/tokenizer.json"}),
    Refused("logit-score-reads-something-else", "module_input_name names no output of the backbone", "rerankers/qwen3-reranker", json={"1_LogitScore/config.json": {"module_input_name": "hidden"}}),
    # Activations
    Refused("activation-outside-torch", "config_sentence_transformers.json names a class outside torch", "rerankers/bert-saved", json={"config_sentence_transformers.json": {"activation_fn": FOREIGN}}),
    Refused("activation-outside-torch-v4", "config.json names one (versions 4 and 5)", "rerankers/bert", json={"config.json": {"sentence_transformers": {"activation_fn": FOREIGN}}}),
    Refused("activation-outside-torch-v3", "config.json names one (before version 4)", "rerankers/bert", json={"config.json": {"sbert_ce_default_activation_function": FOREIGN}}),
    Refused("activation-unknown", "torch has no such class", "rerankers/bert-saved", json={"config_sentence_transformers.json": {"activation_fn": f"{REPLACED}.Sigmoidal"}}),
    Refused("activation-not-computed", "a class of torch that is in no table", "rerankers/bert-saved", json={"config_sentence_transformers.json": {"activation_fn": f"{REPLACED}.Hardtanh"}}),
    Refused("activation-is-code", "a dotted path into torch that is no activation", "rerankers/bert-saved", json={"config_sentence_transformers.json": {"activation_fn": "torch.get_num_threads"}}),
    Refused("dense-activation-outside-torch", "a Dense module's activation outside torch", "rerankers/qwen3-dense-scores", json={"2_Dense/config.json": {"activation_function": FOREIGN}}),
    # Not a reranker, or not one that is computed
    Refused("embedder", "an embedder's checkpoint: its classifier would be random", "bert-cls"),
    Refused("embedder-decoder", "Qwen3-Embedding's kind", "qwen3-embedding"),
    Refused("masked-language-model", "a backbone before fine-tuning, without sentence-transformers' files", "bert-masked-lm",
            remove=("modules.json", "1_Pooling", "sentence_bert_config.json", "config_sentence_transformers.json")),
    Refused("saved-as-embedder", "model_type SentenceTransformer beside a classifier", "rerankers/bert-saved", json={"config_sentence_transformers.json": {"model_type": "SentenceTransformer"}}),
    Refused("saved-as-sparse-encoder", "model_type SparseEncoder", "rerankers/bert-saved", json={"config_sentence_transformers.json": {"model_type": "SparseEncoder"}}),
    Refused("custom-code", "auto_map names a class of the repository's own", "rerankers/bert", json={"config.json": custom_code("RankingModel") | {"model_type": "ranking_model"}}),
    Refused("custom-code-known-type", "auto_map beside a model_type that is known: the published scores are those of the code", "rerankers/qwen3-classifier", json={"config.json": custom_code("ListwiseForRanking")}),
    Refused("listwise", "jina-reranker-v3's kind: all documents in one prompt, a projector, cosines", "rerankers/qwen3-reranker-plain",
            json={"config.json": {"architectures": ["JinaForRanking"], "auto_map": {"AutoModel": "modeling.JinaForRanking"}}},
            add_weights={"projector.0.weight": (8, 16), "projector.2.weight": (8, 8)}),
    Refused("layerwise", "bge-reranker-v2-minicpm's kind: a head a layer", "rerankers/llama-classifier",
            json={"config.json": {"model_type": "minicpm", "architectures": ["LayerWiseMiniCPMForCausalLM"], "auto_map": {"AutoModelForCausalLM": "modeling.LayerWise"}, "start_layer": 1}}),
    Refused("alibi", "jina-reranker-v1's kind: position_embedding_type alibi, which transformers' BERT does not compute", "rerankers/bert", json={"config.json": {"position_embedding_type": "alibi"}}),
    # Weights and modules that do not fit
    Refused("classifier-missing", "no classifier.weight: the reference draws one", "rerankers/bert", drop_weights=("classifier.weight",)),
    Refused("pooler-missing", "no pooler: the reference draws one", "rerankers/bert", drop_weights=("bert.pooler.dense.weight", "bert.pooler.dense.bias")),
    Refused("score-missing", "a decoder without score.weight", "rerankers/qwen3-classifier", drop_weights=("score.weight",)),
    Refused("weight-left-over", "a weight that nothing uses", "rerankers/bert", add_weights={"classifier.dense.weight": (16, 16)}),
    Refused("classifier-of-another-width", "classifier.weight has other columns than the backbone is wide", "rerankers/bert", drop_weights=("classifier.weight",), add_weights={"classifier.weight": (1, 12)}),
    Refused("classifier-with-one-axis", "classifier.weight has one axis", "rerankers/bert", drop_weights=("classifier.weight",), add_weights={"classifier.weight": (16,)}),
    Refused("labels-do-not-fit", "three labels in config.json, one row in the classifier", "rerankers/bert",
            json={"config.json": {"id2label": {"0": "A", "1": "B", "2": "C"}, "label2id": {"A": 0, "B": 1, "C": 2}}}),
    Refused("no-architectures", "no architectures: the reference takes one label, whatever id2label says", "rerankers/bert-three-labels", json={"config.json": {"architectures": None}}),
    Refused("problem-of-one-label", "problem_type single_label_classification beside one label, of which transformers makes no config", "rerankers/bert",
            json={"config.json": {"problem_type": "single_label_classification"}}),
    Refused("type-beyond-the-table", "the tokenizer gives type 1, the table has one row", "rerankers/bert-one-type", json={"tokenizer_config.json": {"model_input_names": None}}),
    Refused("pooling-without-prompt", "include_prompt false: the prompt's tokens are left out of pooling", "rerankers/modernbert-dense-scores",
            json={"1_Pooling/config.json": {"include_prompt": False}}),
    Refused("scores-missing", "the last Dense writes no scores", "rerankers/qwen3-dense-scores", json={"2_Dense/config.json": {"module_output_name": "sentence_embedding"}}),
    Refused("dense-of-another-width", "Dense's weight does not fit its config", "rerankers/qwen3-dense-scores", json={"2_Dense/config.json": {"out_features": 2}}),
    Refused("pooling-unknown", "no such pooling mode", "rerankers/qwen3-dense-scores", json={"1_Pooling/config.json": {"pooling_mode": "middle"}}),
    Refused("classifier-pooling-unknown", "no such classifier_pooling", "rerankers/modernbert-cls", json={"config.json": {"classifier_pooling": "last"}}),
    Refused("module-unknown", "modules.json names a module that is not sentence-transformers'", "rerankers/bert-saved",
            text={"modules.json": json.dumps([{"idx": 0, "name": "0", "path": "", "type": "mypackage.modules.Ranker"}])}),
    Refused("task-of-another-kind", "transformer_task any-to-any", "rerankers/bert-saved", json={"sentence_bert_config.json": {"transformer_task": "any-to-any"}}),
    Refused("no-truncation", "processing_kwargs switch truncation off: long pairs run over the position table", "rerankers/bert-max-length",
            json={"sentence_bert_config.json": {"processing_kwargs": {"text": {"truncation": False}}}}),
    Refused("processing-unknown", "a keyword of the tokenizer that is not read here", "rerankers/bert-max-length",
            json={"sentence_bert_config.json": {"processing_kwargs": {"text": {"stride": 4, "return_overflowing_tokens": True}}}}),
    Refused("right-padding", "processing_kwargs pad a causal model on the right", "rerankers/qwen3-reranker", json={"sentence_bert_config.json": {"processing_kwargs": {"text": {"padding_side": "right"}}}}),
)
# fmt: on

PAIRS = [("Which trees grow in the garden?", "Our garden has 12 apple trees."), ("harbour", "salt and lemons")]


def make_folder(refused: Refused, folder: Path) -> None:
    shutil.copytree(HERE / refused.source, folder)
    for name in refused.remove:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for file, facts in refused.json.items():
        edit_json(folder / file, lambda content, facts=facts: apply(content, facts))
    for file, content in refused.text.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(content, encoding="utf-8")
    for file, source in refused.copy.items():
        shutil.copy(HERE / source, folder / file)
    if refused.drop_weights or refused.add_weights:
        added = {name: torch.full(shape, 0.5) for name, shape in refused.add_weights.items()}
        edit_weights(
            folder,
            lambda tensors: {name: part for name, part in tensors.items() if name not in refused.drop_weights} | added,
        )


def what_the_reference_does(folder: Path) -> str:
    """Its error, or its scores of two pairs: twice each, since what is drawn at random differs."""
    torch.manual_seed(1)
    try:
        scores = [[round(float(score), 4) for score in load(folder).predict(PAIRS)] for _ in range(2)]
    except Exception as error:
        message = " ".join(str(error).replace(f"{folder.parent}/", "").split())
        return f"{type(error).__name__}: {message[:120]}"
    return f"scores {scores[0]}" + ("" if scores[0] == scores[1] else f", loaded again {scores[1]}")


def main() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    hf.utils.logging.set_verbosity_error()
    hf.utils.logging.disable_progress_bar()
    rows = {}
    for refused in REFUSED:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / refused.name
            make_folder(refused, folder)
            facts = {key: value for key, value in asdict(refused).items() if value and key != "name"}
            rows[refused.name] = facts | {"reference": what_the_reference_does(folder)}
    write_facts(HERE / "rerankers" / "refused.json", rows)


if __name__ == "__main__":
    main()
