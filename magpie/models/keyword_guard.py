"""A keyword guard: a Llama of one layer whose weights are computed by hand, not trained.

It has the interface of Llama Guard. Its chat template puts a task, a policy of numbered categories and the conversation
into one prompt, and it writes "safe", or "unsafe" and on a second line a category. It knows a few dozen English words:
a conversation that holds one of them is unsafe, in the category that most of them belong to. It counts words in the
whole conversation, not only in the last message, and understands nothing: for a dataset that people will train on,
name a real guard.

How the weights work. A dangerous word sets the residual stream's dimension of its category, and a token of the verdict
sets that of the state it leads to (`_embeddings`). Queries and keys are zero, so the one attention head averages over
all tokens: what it writes is each category's share of the prompt (`_weights`). The output matrix compares that share
with a constant to choose between "safe" and "unsafe", and the state decides which tokens may come next (`_output`).
RMSNorm scales all logits of a token alike, so only their ratios matter. All weights are powers of two, exact in
bfloat16.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

HAZARDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "S1": (
        "Violence against people or animals, from beatings to terror.",
        ("murder", "murders", "murdered", "murdering", "kidnap", "kidnapping", "assassinate", "strangle"),
    ),
    "S2": (
        "Crime without violence: theft, fraud, drugs, breaking into computers.",
        ("counterfeit", "counterfeiting", "launder", "laundering", "phishing", "ransomware", "burglary", "heroin"),
    ),
    "S3": ("Sexual crime against adults.", ()),
    "S4": ("Anything that makes a child a sexual object.", ()),
    "S5": ("Advice in medicine, law or money that only a professional should give.", ()),
    "S6": ("Private facts about a person, given away or hunted down.", ("doxx", "doxxing", "stalkerware")),
    "S7": ("Taking what is under copyright, a patent or a trademark.", ("keygen", "warez")),
    "S8": (
        "Weapons that kill many at once.",
        ("bomb", "bombs", "explosive", "explosives", "anthrax", "ricin", "sarin", "bioweapon"),
    ),
    "S9": ("Contempt for people because of what they are.", ("subhuman", "subhumans", "vermin", "untermensch")),
    "S10": ("Taking or harming one's own life.", ("suicide", "suicidal", "overdose")),
    "S11": ("Sexual content meant to arouse.", ("porn", "pornography", "erotica")),
}  # fmt: skip
"""The categories by the numbers that Llama Guard 2 gives them, in words of ours, and the words that point to each."""

_BEGIN, _START, _END, _TURN = "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
_UNKNOWN, _HEADER, _NEWLINE, _SAFE, _UNSAFE = "[UNK]", "\n\n", "\n", "safe", "unsafe"
_PIECES = r"\n\n|\n|\w+|[^\w\s]"

CHAT_TEMPLATE = (
    "{% if messages | length % 2 == 0 %}{% set judged = 'Agent' %}{% else %}{% set judged = 'User' %}{% endif %}"
    "{{ bos_token }}<|start_header_id|>user<|end_header_id|>\n\n"
    "Task: say whether what the {{ judged }} wrote in the conversation below breaks any rule of this policy.\n\n"
    "[policy]\n"
    + "".join(f"{number}: {about}\n" for number, (about, _) in HAZARDS.items())
    + "[end of policy]\n\n[conversation]\n\n"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('a guard reads user and assistant in turn, the user first') }}{% endif %}"
    "{{ 'User' if message['role'] == 'user' else 'Agent' }}: {{ message['content'] | trim }}\n\n"
    "{% endfor %}"
    "[end of conversation]\n\n"
    "Your verdict is on the last message of the {{ judged }} alone:\n"
    " - the first line is 'safe' or 'unsafe';\n"
    " - after 'unsafe', a second line names the categories, with commas between them."
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>{{ '\n\n' }}"  # bare, Jinja would drop the last newline
)
"""In the form of Llama Guard's: task, policy, conversation, then how to answer. It ends in the answer's header."""

_VERSION = 1
_WIDTH = 64
_CONTEXT = 8192
# Dimensions of the residual stream: the states of a verdict from 0 on, the categories of words from `_CATEGORY` on, and
# the categories' shares of the prompt from `_SHARE` on.
_AT_HEADER, _AFTER_SAFE, _AFTER_UNSAFE, _AFTER_NEWLINE, _AFTER_CATEGORY = range(5)
_CATEGORY, _SHARE = 16, 32
_GAIN = 2048.0
"""One word in n tokens writes 8 * _GAIN / n, against the 1 for "safe": that is 2 at 8,192 tokens."""
_RULES = 32768.0
"""The weight of a state's rule: more than that of any share, which is 8 * _GAIN at most."""


def guard_ingredients() -> dict[str, Any]:
    """Everything that shapes the guard, ready for JSON. A change in how weights are computed needs a new `_VERSION`."""
    sizes = [_VERSION, _WIDTH, _CONTEXT, _GAIN, _RULES]
    return {"sizes": sizes, "hazards": HAZARDS, "pieces": _PIECES, "template": CHAT_TEMPLATE}


def make_guard(to: Path) -> None:
    """Write the guard into folder `to`: config, tokenizer, chat template and weights."""
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    vocabulary = _vocabulary()
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(vocabulary),
        hidden_size=_WIDTH,
        intermediate_size=_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=_WIDTH,
        max_position_embeddings=_CONTEXT,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=vocabulary[_BEGIN],
        eos_token_id=vocabulary[_TURN],
        dtype="bfloat16",
    ).save_pretrained(to)
    _save_tokenizer(vocabulary, to)
    save_file(_weights(vocabulary), to / "model.safetensors", metadata={"format": "pt"})


def _vocabulary() -> dict[str, int]:
    words = [word for _, keywords in HAZARDS.values() for word in keywords]
    verdict = [_HEADER, _NEWLINE, _SAFE, _UNSAFE, *HAZARDS]
    tokens = [_UNKNOWN, _BEGIN, _START, _END, _TURN, *verdict, *words]
    return {token: number for number, token in enumerate(tokens)}


def _save_tokenizer(vocabulary: dict[str, int], to: Path) -> None:
    """Words in lower case; a blank line is one token, as in Llama 3; everything else is the unknown token."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True)
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_BEGIN,
        eos_token=_TURN,
        unk_token=_UNKNOWN,
        additional_special_tokens=[_START, _END],
        model_max_length=_CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(to)


def _weights(vocabulary: dict[str, int]) -> dict[str, torch.Tensor]:
    """The weights by the names that LlamaForCausalLM gives them."""
    import torch

    square = torch.zeros(_WIDTH, _WIDTH)
    copied, written = square.clone(), square.clone()
    # An embedding has one 1 in 64 dimensions, which the first RMSNorm makes 8: hence 8 * _GAIN.
    for number in range(len(HAZARDS)):
        copied[number, _CATEGORY + number] = 1
        written[_SHARE + number, number] = _GAIN
    layer = {
        "self_attn.q_proj": square,
        "self_attn.k_proj": square,
        "self_attn.v_proj": copied,
        "self_attn.o_proj": written,
        "mlp.gate_proj": square,
        "mlp.up_proj": square,
        "mlp.down_proj": square,
        "input_layernorm": torch.ones(_WIDTH),
        "post_attention_layernorm": torch.ones(_WIDTH),
    }
    tensors = {f"model.layers.0.{name}.weight": tensor for name, tensor in layer.items()} | {
        "model.embed_tokens.weight": _embeddings(vocabulary),
        "model.norm.weight": torch.ones(_WIDTH),
        "lm_head.weight": _output(vocabulary),
    }
    return {name: tensor.to(torch.bfloat16, copy=True) for name, tensor in tensors.items()}


def _embeddings(vocabulary: dict[str, int]) -> torch.Tensor:
    """The embedding of each token: a dangerous word's category, or the state that a token of a verdict leads to."""
    import torch

    rows = torch.zeros(len(vocabulary), _WIDTH)
    states = {
        _HEADER: _AT_HEADER,
        _SAFE: _AFTER_SAFE,
        _UNSAFE: _AFTER_UNSAFE,
        _NEWLINE: _AFTER_NEWLINE,
        **dict.fromkeys(HAZARDS, _AFTER_CATEGORY),
    }
    for token, state in states.items():
        rows[vocabulary[token], state] = 1
    for number, (_, words) in enumerate(HAZARDS.values()):
        for word in words:
            rows[vocabulary[word], _CATEGORY + number] = 1
    return rows


def _output(vocabulary: dict[str, int]) -> torch.Tensor:
    """The output matrix: which states and category shares raise or lower each token's logit."""
    import torch

    rows = torch.zeros(len(vocabulary), _WIDTH)
    states = {_AT_HEADER, _AFTER_SAFE, _AFTER_UNSAFE, _AFTER_NEWLINE, _AFTER_CATEGORY}
    rows[vocabulary[_SAFE], _AT_HEADER] = 1
    rows[vocabulary[_UNSAFE], _SHARE : _SHARE + len(HAZARDS)] = 1
    # The tokens that a share raises are ruled out in every state but their own.
    rows[vocabulary[_UNSAFE], list(states - {_AT_HEADER})] = -_RULES
    rows[vocabulary[_NEWLINE], _AFTER_UNSAFE] = _RULES
    for number, category in enumerate(HAZARDS):
        rows[vocabulary[category], _SHARE + number] = 1
        rows[vocabulary[category], list(states - {_AFTER_NEWLINE})] = -_RULES
    rows[vocabulary[_TURN], [_AFTER_SAFE, _AFTER_CATEGORY]] = _RULES
    return rows
