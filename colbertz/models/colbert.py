"""ColBERT (Khattab & Zaharia 2020, arXiv 2004.12832): one embedding a token, compared by MaxSim.

The model is an ordinary `nn.Module`: `forward` takes tokens and gives embeddings with gradient, so the model can be
frozen or fine-tuned inside a larger one. `encode_query` and `encode_document` take texts and compute no gradient.

Legend: N tokens of the batch, H hidden size, E embedding dim.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Unpack, cast, overload

import tokenizers
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colbertz.errors import UserError, check_integer, check_path, check_type
from colbertz.maxsim import maxsim
from colbertz.models.backends import Backend
from colbertz.models.checkpoint.assemble import assemble, check_size, from_scratch
from colbertz.models.checkpoint.hub import resolve
from colbertz.models.checkpoint.read import read_contents, read_source
from colbertz.models.checkpoint.save import save
from colbertz.models.checks import check_encoding, check_loading, check_on_cpu, usable_device
from colbertz.models.dtypes import DType, chosen_dtype
from colbertz.models.encoders.base import Encoder, EncoderConfig
from colbertz.models.encoding import (
    DocumentOptions,
    Encoded,
    QueryOptions,
    batches_by_length,
    embedded,
    in_evaluation_mode,
    in_order_of_texts,
    warn_truncated,
)
from colbertz.models.onnx.export import export
from colbertz.models.onnx.runtime import OnnxEncoder
from colbertz.models.onnx.runtime import load as load_onnx
from colbertz.models.pooling import Pooling, check_pooling, pool_tokens
from colbertz.models.projection import Projection
from colbertz.models.ranking import Ranked, rank
from colbertz.models.tokenizer import ColBERTSettings, ColBERTTokenizer, SettingOverrides, Side, Tokens
from colbertz.ragged import Ragged


class ColBERT(nn.Module):
    """An encoder, a chain of projections, and the tokenizer that goes with them.

    Attributes:
        encoder: `ModernBert` or `Bert`; with an ONNX backend `OnnxEncoder`, which has the projections in it.
        projections: from hidden states to embeddings.
        tokenizer: texts to `Tokens`; picklable, for loader processes.
    """

    def __init__(
        self,
        encoder: Encoder,
        projections: Sequence[Projection] = (),
        tokenizer: ColBERTTokenizer | None = None,
    ) -> None:
        """Join the parts; `from_pretrained` loads them from a checkpoint.

        Raises:
            TypeError: if `encoder` is a path, or there is no tokenizer.
        """
        if isinstance(encoder, str | Path):
            raise TypeError(
                "ColBERT() joins an encoder, projections and a tokenizer; to load a checkpoint call "
                f"ColBERT.from_pretrained({str(encoder)!r})"
            )
        if tokenizer is None:
            raise TypeError("ColBERT() needs a tokenizer, which turns texts into the encoder's tokens")
        super().__init__()
        self.encoder = encoder
        self.projections = nn.ModuleList(projections)
        self.tokenizer = tokenizer

    # -- loading and saving --------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path,
        device: torch.device | str | None = None,
        dtype: DType = None,
        *,
        backend: Backend = "torch",
        embedding_dim: int | None = None,
        seed: int = 0,
        **overrides: Unpack[SettingOverrides],
    ) -> "ColBERT":
        """Load a PyLate, sentence-transformers or Stanford checkpoint, or a bare encoder.

        Args:
            path_or_hub_id: a directory, or the id of a repository on the Hugging Face hub.
            device: where to put it; None for CUDA where there is one, else the CPU.
            dtype: of the weights; None for float32, "auto" for bfloat16 where that is fast, else float32.
            backend: "torch-int8" to multiply 8-bit integers in the encoder, on a CPU that has instructions for it; the
                rest is in `dtype`, None for the faster one. "onnx" or "onnx-int8" to run what `colbertz export
                --onnx [--int8]` wrote, on the CPU in onnxruntime. These models encode and cannot be trained or saved.
            embedding_dim: a projection to this size is added where the checkpoint ends in another one or in none
                (None: 128 in that case).
            seed: initialises what the checkpoint does not have: that projection and new tokens.
            **overrides: fields of `ColBERTSettings` that replace the checkpoint's.

        Raises:
            FileNotFoundError: if there is no such directory or repository.
            CheckpointError: if a file is missing, damaged, or describes something that is not supported.
            TypeError: if an override names no setting.
            UserError: if there is no such device; if `backend` is unknown, cannot run here, or goes with another
                device, dtype or embedding_dim than its own.
        """
        check_loading(path_or_hub_id, device, dtype, embedding_dim, seed)
        if backend not in ("torch", "torch-int8"):
            exported, tokenizer = load_onnx(path_or_hub_id, backend, device, dtype, embedding_dim, overrides)
            # `OnnxEncoder` has no weights and no layers, so it is no `Encoder`; `exported` tells the two apart.
            return cls(cast(Encoder, exported), [], tokenizer).eval()
        in_int8 = backend == "torch-int8"
        if in_int8:
            device, dtype = check_on_cpu(backend, device), dtype or "auto"
        usable = usable_device(device if device is not None else ("cuda" if torch.cuda.is_available() else "cpu"))
        source = read_source(resolve(path_or_hub_id))
        contents = read_contents(source, check_size(source))
        parts = assemble(contents, chosen_dtype(dtype, usable), embedding_dim, seed, overrides, in_int8)
        return cls(*parts).eval().to(usable)

    @classmethod
    def from_scratch(
        cls,
        encoder: EncoderConfig,
        tokenizer: tokenizers.Tokenizer,
        *,
        embedding_dim: int = 128,
        seed: int = 0,
        **settings: Unpack[SettingOverrides],
    ) -> "ColBERT":
        """An untrained model; weights are drawn with `seed`.

        Args:
            encoder: sizes, in the configuration class of a family of `colbertz.models.encoders.base`, such as
                `ModernBertConfig` or `BertConfig`; `vocab_size` is taken from the tokenizer.
            tokenizer: must know `[CLS]`, `[SEP]`, `[PAD]`, `[UNK]` and `[MASK]` and add the first two around a text.
            embedding_dim: E.
            seed: for the weights.
            **settings: fields of `ColBERTSettings`.

        Raises:
            UserError: if the encoder's family is unknown, or the tokenizer lacks one of these tokens.
        """
        check_type("tokenizer", tokenizer, tokenizers.Tokenizer, "a tokenizers.Tokenizer")
        check_integer("embedding_dim", embedding_dim, 1)
        check_integer("seed", seed, 0)
        return cls(*from_scratch(encoder, tokenizer, ColBERTSettings().overridden(settings), embedding_dim, seed))

    def save_pretrained(self, directory: str | Path) -> None:
        """Write a checkpoint in PyLate's layout; an existing directory is replaced only when all files are written.

        Raises:
            UserError: if the model runs in onnxruntime or in 8-bit integers.
        """
        check_path("directory", directory)
        if self.exported:
            raise UserError(f"{self.exported.path} has no weights to save; load the model with backend torch")
        save(self.encoder, self._chain, self.tokenizer, directory)

    def export_onnx(self, directory: str | Path, *, int8: bool = False, name: str | None = None) -> list[Path]:
        """Write the files that `backend="onnx"` and next-plaid load; see `colbertz.models.onnx.export.export`.

        Raises:
            UserError: if the model runs in onnxruntime already, or as `export`.
        """
        check_path("directory", directory)
        check_type("int8", int8, bool, "True or False")
        check_type("name", name, (str, NoneType), "a string or None")
        if self.exported:
            raise UserError(f"{self.exported.path} is exported already; load the model with backend torch to export it")
        return export(self.encoder, self._chain, self.tokenizer, directory, int8=int8, name=name)

    # -- looking -------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> ColBERTSettings:
        """How texts become tokens."""
        return self.tokenizer.settings

    @property
    def exported(self) -> OnnxEncoder | None:
        """What runs in onnxruntime instead of weights, with an ONNX backend."""
        encoder = cast(nn.Module, self.encoder)
        return encoder if isinstance(encoder, OnnxEncoder) else None

    @property
    def embedding_dim(self) -> int:
        """E."""
        return self.exported.embedding_dim if self.exported else self._chain[-1].out_features

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device("cpu") if self.exported else self.encoder.token_embeddings.weight.device

    @property
    def _chain(self) -> list[Projection]:
        return cast(list[Projection], list(self.projections))

    # -- computing -----------------------------------------------------------------------------------------------

    def forward(self, tokens: Tokens, normalize: bool = True) -> Ragged:
        """Embed tokenised texts.

        Args:
            tokens: a batch from `self.tokenizer`, on this model's device.
            normalize: whether embeddings get unit length.

        Returns:
            The (num_scored_tokens, E) float32 embeddings of each text; tokens that do not count in scores are left out.

        Raises:
            UserError: if an exported model, whose embeddings have unit length, is asked for others.
        """
        check_type("tokens", tokens, Tokens, "Tokens of the model's tokenizer")
        check_type("normalize", normalize, bool, "True or False")
        if self.exported and not normalize:
            raise UserError("an exported model gives embeddings of unit length; for normalize=False use backend torch")
        hidden = tokens.ids.with_values(self.encoder(tokens.ids, tokens.attended, tokens.seeds))
        if tokens.scored is not None:
            hidden = hidden.select(tokens.scored)
        x = hidden.values
        for projection in self.projections:
            x = projection(x)
        return hidden.with_values(F.normalize(x.float(), dim=-1) if normalize else x.float())

    def embed(self, tokens: Tokens, normalize: bool = True) -> Ragged:
        """`forward` without gradient and without dropout, whatever mode the model is in; the result is on the CPU.

        Threads may call this at the same time, also while another one trains the model.
        """
        check_type("tokens", tokens, Tokens, "Tokens of the model's tokenizer")
        # Not inference_mode, whose tensors cannot enter a training as constants.
        with torch.no_grad():
            embeddings: Ragged = in_evaluation_mode(self)(tokens.to(self.device), normalize)
            return embeddings.cpu()

    def encode(
        self,
        texts: Sequence[str],
        side: Side,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_tokens: int | None = None,
        normalize: bool = True,
        show_progress: bool | None = None,
        devices: Sequence[str] | None = None,
        pool_factor: int = 1,
        protected_tokens: int | None = None,
        pooling: Pooling = "ward",
    ) -> Encoded:
        """Embed texts and count those that were cut, without a warning: for callers that encode part by part.

        Such a caller adds up `num_truncated` and calls `warn_truncated` once, or ignores it.

        Args:
            texts: a list of texts.
            side: "query" or "document".
            prompt: text to put before each; None for the one named `prompt_name`.
            prompt_name: one of the model's prompts; None for that of the side, or the default prompt.
            batch_tokens: tokens in one forward pass; None for a size that suits the device.
            normalize: whether embeddings get unit length.
            show_progress: as for `colbertz.progress.progress`: None for a bar if it takes longer than a second.
            devices: encode in one process for each of these, such as `["cuda:0", "cuda:1"]`.
            pool_factor, pooling: keep one embedding for about this many tokens; see `colbertz.models.pooling`.
            protected_tokens: tokens at the start that pooling keeps; None for all that every text has, with [SEP].

        Raises:
            TypeError: if a text is not a string.
            UserError: if there is no such prompt, a number is out of its range, or an embedding is not finite.
        """
        if not isinstance(texts, Iterable) or isinstance(texts, str | bytes | Mapping):
            raise TypeError(f"texts must be a string or a list of strings, got {type(texts).__name__}")
        check_pooling(pool_factor, pooling, protected_tokens)
        check_encoding(side, prompt, batch_tokens, normalize, show_progress, devices)
        prompt = self.settings.prompt(side, prompt_name) if prompt is None else prompt
        tokens = self.tokenizer.tokenise(list(texts), side, prompt)
        batches = batches_by_length(tokens.ids, self.device, batch_tokens)
        parts = [tokens[batch] for batch in batches]
        on_cpu = self.device.type == "cpu" and not self.exported  # an exported model has threads of its own
        results = embedded(in_evaluation_mode(self), parts, normalize, devices, on_cpu)
        if pool_factor != 1:
            default = (1, 0) if pooling == "pylate" else self.tokenizer.tokens_of_every_document(prompt)
            ends = default if protected_tokens is None else (protected_tokens, 0)
            results = (pool_tokens(result, pool_factor, *ends, pooling) for result in results)
        embeddings = in_order_of_texts(batches, results, self.embedding_dim, f"encoding, {side} side", show_progress)
        return Encoded(embeddings, tokens.num_truncated)

    def warn_truncated(self, num_truncated: int, side: Side, num_texts: int | None = None) -> None:
        """Log one warning that texts were cut to the length of their side; nothing if none was.

        Args:
            num_truncated: how many were cut.
            side: "query" or "document".
            num_texts: of how many texts, if that is known.
        """
        warn_truncated(num_truncated, side, self.settings.length(side), num_texts)

    # mypy: a string is a sequence of strings too. The overload that matches first, for a string, holds.
    @overload
    def encode_query(self, texts: str, **options: Unpack[QueryOptions]) -> Tensor: ...  # type: ignore[overload-overlap]
    @overload
    def encode_query(self, texts: Sequence[str], **options: Unpack[QueryOptions]) -> Ragged: ...
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
    ) -> Tensor | Ragged:
        """Embed queries; one warning says how many of them were cut.

        Args:
            texts: a query or a list of queries.
            prompt, prompt_name, batch_tokens, normalize, show_progress, devices: as for `encode`.

        Returns:
            For a list a `Ragged` of float32 (num_tokens_i, E) on the CPU, in the order of the texts; for a string its
            one tensor.

        Raises:
            TypeError, UserError: as `encode`.
        """
        options = DocumentOptions(
            prompt=prompt,
            prompt_name=prompt_name,
            batch_tokens=batch_tokens,
            normalize=normalize,
            show_progress=show_progress,
            devices=devices,
        )
        return self._encode_with_warning(texts, "query", options)

    @overload
    def encode_document(self, texts: str, **options: Unpack[DocumentOptions]) -> Tensor: ...  # type: ignore[overload-overlap]
    @overload
    def encode_document(self, texts: Sequence[str], **options: Unpack[DocumentOptions]) -> Ragged: ...
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
        protected_tokens: int | None = None,
        pooling: Pooling = "ward",
    ) -> Tensor | Ragged:
        """Embed documents, as `encode_query` does; `pool_factor`, `protected_tokens` and `pooling` as for `encode`."""
        options = DocumentOptions(
            prompt=prompt,
            prompt_name=prompt_name,
            batch_tokens=batch_tokens,
            normalize=normalize,
            show_progress=show_progress,
            devices=devices,
            pool_factor=pool_factor,
            protected_tokens=protected_tokens,
            pooling=pooling,
        )
        return self._encode_with_warning(texts, "document", options)

    def _encode_with_warning(self, texts: str | Sequence[str], side: Side, options: DocumentOptions) -> Tensor | Ragged:
        if isinstance(texts, str):
            [embeddings] = self._encode_with_warning([texts], side, options | {"show_progress": False, "devices": None})
            return embeddings
        encoded = self.encode(texts, side, **options)
        self.warn_truncated(encoded.num_truncated, side, len(encoded.embeddings))
        return encoded.embeddings

    def similarity(self, queries: Ragged | Tensor, documents: Ragged | Tensor) -> Tensor:
        """MaxSim of every query with every document: (num_queries, num_documents) float32. A tensor is one text."""
        for name, texts in (("queries", queries), ("documents", documents)):
            check_type(name, texts, (Ragged, Tensor), "a Ragged or a tensor")
        q, d = (x if isinstance(x, Ragged) else Ragged.from_list([x]) for x in (queries, documents))
        return maxsim(q, d)

    def rank(
        self, query: str, texts: Iterable[str], k: int | None = None, **options: Unpack[DocumentOptions]
    ) -> list[Ranked]:
        """The `k` best of the candidates of another engine (None for all), best first; see `models.ranking.rank`."""
        return rank(self, query, texts, k, options)
