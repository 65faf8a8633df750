"""ColBERT (Khattab & Zaharia 2020, arXiv 2004.12832): one embedding a token, compared by MaxSim.

An ordinary `nn.Module`: `forward` takes tokens and gives embeddings with gradient, so it can be frozen or fine-tuned
inside a larger model; `encode_query` and `encode_document` take texts and need no gradient.

Legend: N tokens of the batch, H hidden size, E embedding dim.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import tokenizers
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from colbertz.errors import UserError
from colbertz.maxsim import maxsim
from colbertz.models.checkpoint import assemble as checkpoint
from colbertz.models.encoders.modernbert import ModernBert, ModernBertConfig
from colbertz.models.onnx import runtime as onnx_files
from colbertz.models.onnx.runtime import OnnxEncoder
from colbertz.models.pooling import pool_tokens
from colbertz.models.projection import Projection
from colbertz.models.tokenizer import ColBERTSettings, ColBERTTokenizer, Side, Tokens
from colbertz.models.truncation import TRUNCATED
from colbertz.models.workers import encode_on_devices
from colbertz.ragged import Ragged

logger = logging.getLogger(__name__)

Backend = Literal["torch", "onnx", "onnx-int8"]

# Tokens in one forward pass: as many as keep a CPU's activations in its cache, or a GPU busy.
_BATCH_TOKENS = {"cpu": 2048, "cuda": 65536}


class ColBERT(nn.Module):
    """An encoder, a chain of projections, and the tokenizer that goes with them.

    Attributes:
        encoder: `ModernBert` or `Bert`; with an ONNX backend `OnnxEncoder`, which has the projections in it.
        projections: from hidden states to embeddings.
        tokenizer: texts to `Tokens`; picklable, for loader processes.
    """

    def __init__(
        self, encoder: checkpoint.Encoder, projections: Sequence[Projection], tokenizer: ColBERTTokenizer
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projections = nn.ModuleList(projections)
        self.tokenizer = tokenizer

    # -- making one ----------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        backend: Backend = "torch",
        embedding_dim: int | None = None,
        seed: int = 0,
        **overrides: Any,
    ) -> "ColBERT":
        """Load a PyLate, sentence-transformers or Stanford checkpoint, or a bare encoder.

        Args:
            path_or_hub_id: a directory, or the id of a repository on the Hugging Face hub.
            device: where to put it; None for CUDA where there is one, else the CPU.
            dtype: of the weights; None for float32.
            backend: "onnx" or "onnx-int8" to run what `colbertz export --onnx [--int8]` wrote, on the CPU in
                onnxruntime. Such a model encodes and cannot be trained or saved.
            embedding_dim: a projection to this size is added where the checkpoint ends in another one or in none
                (None: 128 in that case).
            seed: initialises what the checkpoint does not have: that projection and new tokens.
            **overrides: fields of `ColBERTSettings` that replace the checkpoint's.

        Raises:
            FileNotFoundError: if there is no such directory or repository.
            CheckpointError: if a file is missing, damaged, or describes something that is not supported.
            ValueError: if there is no such device; if `backend` is unknown, needs onnxruntime where there is none, or
                goes with another device, dtype or embedding_dim than its own.
        """
        if backend != "torch":
            return cls._from_onnx(path_or_hub_id, device, dtype, backend, embedding_dim, overrides)
        chosen = _usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        encoder, projections, tokenizer = checkpoint.load(
            path_or_hub_id, dtype or torch.float32, embedding_dim, seed, overrides
        )
        return cls(encoder, projections, tokenizer).eval().to(chosen)

    @classmethod
    def _from_onnx(
        cls,
        path_or_hub_id: str | Path,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        backend: str,
        embedding_dim: int | None,
        overrides: dict[str, Any],
    ) -> "ColBERT":
        if backend not in onnx_files.MODELS:
            raise UserError(f"backend must be torch, {' or '.join(onnx_files.MODELS)}, got {backend!r}")
        if device is not None and str(device).partition(":")[0] != "cpu":
            raise UserError(f"backend {backend} runs on the CPU, got device {device}; leave device out")
        if dtype not in (None, torch.float32):
            raise UserError(f"an exported model has the dtype that it was written with, got {dtype}; leave dtype out")
        encoder, tokenizer = onnx_files.load(path_or_hub_id, backend, overrides)
        if embedding_dim not in (None, encoder.embedding_dim):
            raise UserError(
                f"embedding_dim is {embedding_dim}, but {encoder.path} has {encoder.embedding_dim}; "
                "load the model with backend torch and export it anew"
            )
        return cls(cast(Any, encoder), [], tokenizer).eval()

    @classmethod
    def from_scratch(
        cls,
        encoder: ModernBertConfig,
        tokenizer: tokenizers.Tokenizer,
        *,
        embedding_dim: int = 128,
        seed: int = 0,
        **settings: Any,
    ) -> "ColBERT":
        """An untrained model; weights are drawn with `seed`.

        Args:
            encoder: sizes; `vocab_size` is taken from the tokenizer.
            tokenizer: must know `[CLS]`, `[SEP]`, `[PAD]`, `[UNK]` and `[MASK]` and add the first two around a text.
            embedding_dim: E.
            seed: for the weights.
            **settings: fields of `ColBERTSettings`.
        """
        names = ("cls_token", "sep_token", "pad_token", "unk_token", "mask_token")
        special = {name: f"[{name.removesuffix('_token').upper()}]" for name in names}
        for name, token in special.items():
            if tokenizer.token_to_id(token) is None:
                raise UserError(f"the tokenizer has no {name} {token}")
        wrapped = ColBERTTokenizer(tokenizer, ColBERTSettings(**settings), special)
        ids = {f"{role}_id": tokenizer.token_to_id(token) for role, token in special.items()}
        ids |= {"bos_token_id": ids["cls_token_id"], "eos_token_id": ids["sep_token_id"]}
        sizes = encoder.to_dict() | ids | {"vocab_size": wrapped.vocab_size}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = ModernBert(ModernBertConfig.from_dict(sizes))
            network.reset_parameters()
            projection = Projection(encoder.hidden_size, embedding_dim)
        return cls(network, [projection], wrapped)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write a checkpoint in PyLate's layout; an existing directory is replaced only when all files are written.

        Raises:
            ValueError: if the model runs in onnxruntime.
        """
        if self.exported:
            raise UserError(f"{self.exported.path} has no weights to save; load the model with backend torch")
        checkpoint.save(self, directory)

    def export_onnx(self, directory: str | Path, *, int8: bool = False) -> list[Path]:
        """Write the files that `backend="onnx"` and next-plaid load; see `colbertz.models.onnx.runtime.export`."""
        return onnx_files.export(self, directory, int8=int8)

    # -- looking -------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> ColBERTSettings:
        return self.tokenizer.settings

    @property
    def exported(self) -> OnnxEncoder | None:
        """What runs in onnxruntime instead of weights, with an ONNX backend."""
        encoder = cast(nn.Module, self.encoder)
        return encoder if isinstance(encoder, OnnxEncoder) else None

    @property
    def embedding_dim(self) -> int:
        if self.exported:
            return self.exported.embedding_dim
        last = self.projections[-1]
        assert isinstance(last, Projection)
        return last.out_features

    @property
    def device(self) -> torch.device:
        if self.exported:
            return torch.device("cpu")
        return self.encoder.token_embeddings.weight.device

    # -- computing -----------------------------------------------------------------------------------------------

    def forward(self, tokens: Tokens, normalize: bool = True) -> Ragged:
        """Embed tokenised texts.

        Args:
            tokens: a batch from `self.tokenizer`, on this model's device.
            normalize: whether embeddings get unit length.

        Returns:
            The (num_scored_tokens, E) float32 embeddings of each text; tokens that do not count in scores are left out.

        Raises:
            ValueError: if an exported model, whose embeddings have unit length, is asked for others.
        """
        if self.exported and not normalize:
            raise UserError("an exported model gives embeddings of unit length; for normalize=False use backend torch")
        hidden = tokens.ids.with_values(self.encoder(tokens.ids, tokens.attended))
        if tokens.scored is not None:
            hidden = hidden.select(tokens.scored)
        x = hidden.values
        for projection in self.projections:
            x = projection(x)
        return hidden.with_values(F.normalize(x.float(), dim=-1) if normalize else x.float())

    def encode_query(
        self,
        texts: str | Sequence[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_tokens: int | None = None,
        normalize: bool = True,
        show_progress: bool | None = None,
        devices: Sequence[str] | None = None,
    ) -> Any:
        """Embed queries.

        Args:
            texts: a query or a list of queries.
            prompt: text to put before each; None for the one named `prompt_name`.
            prompt_name: one of the model's prompts; None for "query", or the default prompt.
            batch_tokens: tokens in one forward pass; None for a size that suits the device.
            normalize: whether embeddings get unit length.
            show_progress: a progress bar; None for one if the work is long and stderr is a terminal.
            devices: encode in one process for each of these, such as `["cuda:0", "cuda:1"]`.

        Returns:
            For a list a `Ragged` of float32 (num_tokens_i, E) on the CPU, in the order of the texts; for a string its
            one tensor.

        Raises:
            TypeError: if a text is not a string.
            ValueError: if there is no such prompt.
        """
        prompt = self.settings.prompt("query", prompt_name) if prompt is None else prompt
        return self._encode(texts, "query", prompt, batch_tokens, normalize, show_progress, devices)

    def encode_document(
        self,
        texts: str | Sequence[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_tokens: int | None = None,
        normalize: bool = True,
        show_progress: bool | None = None,
        devices: Sequence[str] | None = None,
        pool_factor: int = 1,
        protected_tokens: int = 1,
    ) -> Any:
        """Embed documents. As `encode_query`, and:

        Args:
            pool_factor: keep one embedding for about this many tokens; see `colbertz.models.pooling`.
            protected_tokens: tokens at the start of each document that pooling leaves alone.
        """
        prompt = self.settings.prompt("document", prompt_name) if prompt is None else prompt

        def pool(embeddings: Ragged) -> Ragged:
            return pool_tokens(embeddings, pool_factor, protected_tokens)

        finish = pool if pool_factor != 1 else None
        return self._encode(texts, "document", prompt, batch_tokens, normalize, show_progress, devices, finish)

    def similarity(self, queries: Ragged | Tensor, documents: Ragged | Tensor) -> Tensor:
        """MaxSim of every query with every document: (num_queries, num_documents) float32. A tensor is one text."""
        q, d = (x if isinstance(x, Ragged) else Ragged.from_list([x]) for x in (queries, documents))
        return maxsim(q, d)

    def _encode(
        self,
        texts: str | Sequence[str],
        side: Side,
        prompt: str,
        batch_tokens: int | None,
        normalize: bool,
        show_progress: bool | None,
        devices: Sequence[str] | None,
        finish: Callable[[Ragged], Ragged] | None = None,
    ) -> Any:
        if isinstance(texts, str):
            return self._encode([texts], side, prompt, batch_tokens, normalize, False, None, finish)[0]
        if not isinstance(texts, Iterable) or isinstance(texts, bytes | Mapping):
            raise TypeError(f"texts must be a string or a list of strings, got {type(texts).__name__}")
        tokenise = self.tokenizer.queries if side == "query" else self.tokenizer.documents
        tokens = tokenise(list(texts), prompt)
        if tokens.num_truncated:
            limit = getattr(self.settings, f"{side}_length")
            logger.warning(TRUNCATED, tokens.num_truncated, len(texts), limit, side)
        # Neighbours in length share a batch, and the longest come first: memory peaks at once or never.
        order = tokens.ids.lengths.argsort(stable=True)
        if batch_tokens is not None and batch_tokens < 1:
            raise UserError(f"batch_tokens must be at least 1, got {batch_tokens}")
        budget = batch_tokens or _BATCH_TOKENS.get(self.device.type, 16384)
        sizes = [len(batch) for batch in tokens.ids[order].split(budget)] if len(order) else []
        batches = order.split(sizes)[::-1] if sizes else ()
        if devices:
            results = encode_on_devices(self, [tokens[batch] for batch in batches], normalize, devices)
        else:
            results = (self._embed(tokens[batch], normalize) for batch in batches)
        if show_progress is None:
            show_progress = len(batches) > 8 and sys.stderr.isatty()
        embeddings: list[Tensor] = [torch.empty(0)] * len(order)
        with tqdm(total=len(order), desc=f"encoding, {side} side", unit=" texts", disable=not show_progress) as bar:
            for batch, result in zip(batches, results):
                for number, embedding in zip(batch.tolist(), result if finish is None else finish(result)):
                    embeddings[number] = embedding
                bar.update(len(batch))
        if not embeddings:
            return Ragged.from_lengths(torch.empty(0, self.embedding_dim), [])
        return Ragged.from_list(embeddings)

    def _embed(self, tokens: Tokens, normalize: bool) -> Ragged:
        was_training = self.training
        self.eval()
        try:
            # Not inference_mode: what comes out may enter a user's own training as constants.
            with torch.no_grad():
                return self(tokens.to(self.device), normalize).cpu()
        finally:
            self.train(was_training)


def _usable(device: torch.device | str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch was built without it
        reason = str(error).split(". ")[0].splitlines()[0]
        raise UserError(f"device {device} cannot be used here ({reason}); cpu always can") from error
