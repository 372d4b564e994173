"""ChatGLM-6B's tokenizer: a sentencepiece model in which line ends, tabs and runs of blanks are symbols."""

import re
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizer

from bench.errors import MissingError

VOCABULARY = "ice_text.model"
LONGEST_BLANK = 80  # blanks that one symbol stands for


class ChatGLMTokenizer(PreTrainedTokenizer):
    """Texts as the public checkpoint read them: text, [gMASK], <sop>, padded on the left.

    In the vocabulary, ``num_image_tokens`` ids come before those of the sentencepiece model: 20,000 in the
    first release, none in the current one, whose tokenizer_config.json says so.

    Raises:
        MissingError: sentencepiece is not installed.
        ValueError: the model lacks a symbol that the network needs, or was trained on texts in lower case.
    """

    vocab_files_names = {"vocab_file": VOCABULARY}  # noqa: RUF012 (as transformers declares it)
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012 (as transformers declares it)
    padding_side = "left"

    def __init__(
        self,
        vocab_file: str,
        bos_token: str = "<sop>",
        eos_token: str = "<eop>",
        pad_token: str = "<pad>",
        unk_token: str = "<unk>",
        mask_token: str = "[MASK]",
        gmask_token: str = "[gMASK]",
        num_image_tokens: int = 20000,
        **options: Any,
    ) -> None:
        for name in ("do_lower_case", "remove_space"):
            if options.get(name):
                raise ValueError(
                    f"{name}=true: the public checkpoint has false, and nothing else is supported"
                )
        self.vocab_file = vocab_file
        self.sp_model = _load_sentencepiece(vocab_file)
        self.num_image_tokens = num_image_tokens
        pieces = [self.sp_model.id_to_piece(index) for index in range(self.sp_model.get_piece_size())]
        self._pieces = [f"<image_{index}>" for index in range(num_image_tokens)] + pieces
        self._ids = {piece: index for index, piece in enumerate(self._pieces)}
        for token in (bos_token, eos_token, pad_token, unk_token, mask_token, gmask_token):
            if str(token) not in self._ids:
                raise ValueError(f"{Path(vocab_file).name} has no {token}; it is not ChatGLM's")
        super().__init__(  # type: ignore[no-untyped-call]
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            unk_token=unk_token,
            mask_token=mask_token,
            gmask_token=gmask_token,
            num_image_tokens=num_image_tokens,
            special_tokens_pattern="prefix_suffix",
            **options,
        )
        self.suffix_tokens = [self._ids[str(gmask_token)], self._ids[str(bos_token)]]

    @property
    def vocab_size(self) -> int:
        """Ids of images and of the sentencepiece model."""
        return len(self._pieces)

    def get_vocab(self) -> dict[str, int]:
        """Return every symbol's id."""
        return self._ids | self.added_tokens_encoder

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return text, [gMASK], <sop>, and an answer and <eop> if any."""
        answer = [] if token_ids_1 is None else [*token_ids_1, self._ids[str(self.eos_token)]]
        return [*token_ids_0, *self.suffix_tokens, *answer]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Return the text that the symbols stand for."""
        text = self.sp_model.decode([token for token in tokens if not token.startswith("<image_")])
        text = text.replace("<n>", "\n").replace("<|tab|>", "\t")
        return re.sub(r"<\|blank_(\d+)\|>", lambda match: " " * int(match[1]), text)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the sentencepiece model, and return where."""
        path = Path(save_directory) / "-".join(filter(None, [filename_prefix, VOCABULARY]))
        path.write_bytes(self.sp_model.serialized_model_proto())
        return (str(path),)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
        text = re.sub(f" {{2,{LONGEST_BLANK}}}", lambda match: f"<|blank_{len(match[0])}|>", text)
        pieces: list[str] = self.sp_model.encode(text, out_type=str)
        return pieces

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, self._ids[str(self.unk_token)])

    def _convert_id_to_token(self, index: int) -> str:
        piece: str = self._pieces[index]
        return piece


def _load_sentencepiece(path: str) -> Any:
    try:
        import sentencepiece
    except ImportError:
        raise MissingError(
            "ChatGLM's tokenizer: the package sentencepiece is not installed; "
            'install the extra, pip install -e ".[chatglm]"'
        ) from None
    return sentencepiece.SentencePieceProcessor(model_file=str(path))
