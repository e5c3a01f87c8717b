"""A text task's tokenizer in Hugging Face's form: the same ids, the end of a document as a special token."""

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from deltalab.data.tokens import TOKENIZER, byte_alphabet
from deltalab.spec.data import DataSpec, TextSpec, Tokenizer

END = "<|endoftext|>"


def make_tokenizer(data: DataSpec, folder: Path) -> PreTrainedTokenizerFast | None:
    """The tokenizer of a trained model; None where tokens are no text.

    Args:
        data: the task's spec.
        folder: where the weights are, and the tokenizer if one was learnt.
    """
    if not isinstance(data, TextSpec):
        return None
    if data.tokenizer is Tokenizer.given:
        made = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
        return _wrapped(made, data.eos or str(data.bos), data.bos)
    end = data.vocab_size - 1
    if data.tokenizer is Tokenizer.bytes:
        made = _bytes(end)
    else:
        plain = json.loads((folder / TOKENIZER).read_text())
        plain["model"]["vocab"][END] = end  # also where fewer tokens were learnt than there are ids
        made = tokenizers.Tokenizer.from_str(json.dumps(plain))
    made.add_special_tokens([END])
    return _wrapped(made, END, None)


def _wrapped(made: tokenizers.Tokenizer, end: str, bos: str | None) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=bos,
        eos_token=end,
        pad_token=end,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def _bytes(end: int) -> tokenizers.Tokenizer:
    """A token per byte: byte-level characters, nothing merged."""
    vocabulary = {**byte_alphabet(), END: end}
    made = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return made
