"""What a person should know of a chat format that works and is out of the ordinary."""

from __future__ import annotations

from magpie.chat.reasoning import Reasoning
from magpie.chat.template import TemplateTexts


def warnings_of(texts: TemplateTexts, reasoning: Reasoning | None) -> list[str]:
    """One sentence each, for `ChatFormat.warnings`."""
    warnings = []
    if reasoning is not None and reasoning.is_open(texts.post_query):
        warnings.append("the assistant's header opens a thinking block, so responses start inside it")
    if texts.past_post_query != texts.post_query:
        warnings.append(
            "the assistant's header is written differently for past turns; prompts follow the template"
        )
    if texts.reply_trim.cut:
        warnings.append("past answers lose their thinking block; prompts follow the template")
    if texts.odd_thoughts:
        warnings.append(
            "the template changes past answers that hold a thinking block in its own way, which prompts do not follow; "
            "keep thinking blocks out of messages"
        )
    stripped = [
        role for role, trim in (("user", texts.user_trim), ("assistant", texts.reply_trim)) if trim.strips
    ]
    if stripped:
        warnings.append(f"the template strips the messages of {' and '.join(stripped)}; prompts do the same")
    if texts.system_moves:
        warnings.append(
            "a system prompt is written with the user's last message; prompts follow the template"
        )
    if texts.system_problem is not None:
        warnings.append(f"{texts.system_problem}; system prompts are refused")
    return warnings
