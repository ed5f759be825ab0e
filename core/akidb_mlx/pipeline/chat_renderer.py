"""Texts through a checkpoint's chat template, rendered as transformers does. No MLX here."""

from collections.abc import Sequence
from typing import Any

from akidb_mlx.checkpoint.chat_template import ChatTemplate
from akidb_mlx.errors import UnsupportedModelError

__all__ = ["ChatRenderer"]

# Hides transformers' clock of the same name.
_CLOCK = "{{% macro strftime_now(format) %}}{}{{% endmacro %}}"
# Texts that a template is tried with; no two begin or end alike, nor have the same length.
_PROBES = ("alpha", "bravo two", "charlie's third", "foxtrot")


class ChatRenderer:
    """One template for inputs of as many texts as there are roles; safe to use from several threads."""

    def __init__(self, template: ChatTemplate, name: str, roles: tuple[str, ...]) -> None:
        """Render for the model called `name`; each of an input's texts is a message of its role."""
        self._template = template
        self._name = name
        self.roles = roles

    def check(self, prompt: str, task: str | None = None) -> None:
        """Refuse a template whose outcome does not depend on each text, or depends on the day.

        Raises:
            UnsupportedModelError: it does, or cannot be rendered.
        """
        plain = _PROBES[: len(self.roles)]
        for place, role in enumerate(self.roles):
            other = (*plain[:place], _PROBES[-1], *plain[place + 1 :])
            if len(set(self.render([plain, other], prompt, task))) == 1:
                raise self._refusal(
                    f'leaves out messages of role "{role}", so that nothing would depend on that text; take a '
                    "checkpoint whose template prints them"
                )
        days = {self.render([plain], prompt, task, before=_CLOCK.format(day))[0] for day in ("1", "22")}
        if len(days) > 1:
            raise self._refusal(
                "prints the date, so that a text would get another result each day; set what it takes for it (such as "
                '"date_string") under processing_kwargs, chat_template in sentence_bert_config.json'
            )

    def render(
        self, inputs: Sequence[tuple[str, ...]], prompt: str, task: str | None = None, *, before: str = ""
    ) -> list[str]:
        """One text for each input; a prompt becomes a message of role "system".

        `task` is "query" or "document" where that is known: a template may read it. `before` stands before the
        template.
        """
        # transformers, which mlx-lm brings and decoders load, has the sandbox that templates are written for.
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        template = self._template
        known = {"add_generation_prompt": False, **template.special_tokens, **({} if task is None else {"task": task})}
        try:
            rendered: Any = render_jinja_template(
                conversations=[self._messages(texts, prompt) for texts in inputs],
                chat_template=before + template.text,
                **{**known, **template.arguments},
            )
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise self._refusal(f"cannot be rendered ({error})") from None
        texts: list[str] = rendered[0]
        return texts

    def _messages(self, texts: tuple[str, ...], prompt: str) -> list[dict[str, Any]]:
        said = [("system", prompt)] if prompt else []
        return [
            {"role": role, "content": self._content(text)}
            for role, text in [*said, *zip(self.roles, texts, strict=True)]
        ]

    def _content(self, text: str) -> Any:
        return [{"type": "text", "text": text}] if self._template.structured else text

    def _refusal(self, what: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self._template.source} of {self._name}: the chat template {what}")

    @property
    def restores_suffix(self) -> bool:
        """Whether what the template puts last stays when a text is cut."""
        return self._template.restore_suffix
