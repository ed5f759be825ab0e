"""Queries and documents through a checkpoint's chat template, rendered as transformers does. No MLX here."""

from collections.abc import Sequence
from typing import Any

from akidb_mlx.checkpoint.chat_template import ChatTemplate
from akidb_mlx.errors import UnsupportedModelError

__all__ = ["ChatRenderer"]

# A pair, then one that differs in the query alone, then in the document alone.
_PROBES = (("alpha", "bravo"), ("charlie", "bravo"), ("alpha", "foxtrot"))


class ChatRenderer:
    """One template; safe to use from several threads."""

    def __init__(self, template: ChatTemplate, name: str) -> None:
        """Refuse a template that loses the query or the document of the model called `name`.

        Raises:
            UnsupportedModelError: it does, or cannot be rendered.
        """
        self._template = template
        self._name = name
        plain, *others = [self.render([pair], "")[0] for pair in _PROBES]
        for role, text in zip(("query", "document"), others, strict=True):
            if text == plain:
                raise UnsupportedModelError(
                    f"{template.source} of {name}: the chat template leaves out the {role}: it knows no message of "
                    f'role "{role}", so scores would not depend on it; take a checkpoint whose template reads both'
                )

    def render(self, pairs: Sequence[tuple[str, str]], prompt: str) -> list[str]:
        """One text for each pair; a prompt becomes a message of role "system"."""
        # transformers, which mlx-lm brings and decoders load, has the sandbox that templates are written for.
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        template = self._template
        try:
            rendered: Any = render_jinja_template(
                conversations=[self._messages(pair, prompt) for pair in pairs],
                chat_template=template.text,
                **{"add_generation_prompt": False, **template.special_tokens, **template.arguments},
            )
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise UnsupportedModelError(
                f"{template.source} of {self._name}: the chat template cannot be rendered ({error})"
            ) from None
        texts: list[str] = rendered[0]
        return texts

    def _messages(self, pair: tuple[str, str], prompt: str) -> list[dict[str, Any]]:
        said = [("system", prompt)] if prompt else []
        return [
            {"role": role, "content": self._content(text)}
            for role, text in [*said, ("query", pair[0]), ("document", pair[1])]
        ]

    def _content(self, text: str) -> Any:
        return [{"type": "text", "text": text}] if self._template.structured else text

    @property
    def restores_suffix(self) -> bool:
        """Whether what the template puts last stays when a text is cut."""
        return self._template.restore_suffix
