"""Loading a model folder as a torch module through Hugging Face transformers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from engines.errors import ModelInvalid
from engines.models.checkpoint.kind import DECODER, model_kind, read_config
from engines.models.checkpoint.unservable import lost_head


def scales_outputs(model: Any) -> bool:
    """Whether this Hugging Face model multiplies decoder outputs by d_model^-0.5 before the head.

    transformers 5 forces `tie_word_embeddings` to true on load and keeps T5's answer in `scale_decoder_outputs`; its
    mT5 never scales. Whoever still asks `tie_word_embeddings` scales FLAN and mT5 wrongly.
    """
    config = model.config
    if config.model_type == "mt5":
        return False
    return bool(getattr(config, "scale_decoder_outputs", config.tie_word_embeddings))


def _auto_class(model_dir: Path) -> Any:
    import transformers

    is_decoder = model_kind(model_dir).name == DECODER
    return transformers.AutoModelForCausalLM if is_decoder else transformers.AutoModelForSeq2SeqLM


def default_attention(model_dir: Path) -> str:
    """'sdpa' where this transformers has it for the folder's family, else 'eager' (GPT-J, BLOOM, Gemma 2 with its soft
    caps; T5 before transformers 5, as in SageMaker's LMI containers)."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(str(model_dir), local_files_only=True)
    return "sdpa" if _auto_class(model_dir)._model_mapping[type(config)]._supports_sdpa else "eager"


def load_model(model_dir: Path, dtype: str, attention: str, **placement: Any) -> Any:
    """The folder's model in evaluation mode. dtype: fp32 | bf16 | fp16 | int8. `placement`: further arguments of
    from_pretrained that place the weights."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(dtype, torch.float32)
    try:
        model, found = _auto_class(model_dir).from_pretrained(
            str(model_dir),
            dtype=torch_dtype,
            attn_implementation=attention,
            local_files_only=True,
            output_loading_info=True,
            **placement,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "ignore_mismatched_sizes" in reason:
            reason = "tensors have other shapes than config.json states (vocab_size after resizing the embeddings?)"
        raise ModelInvalid(f"{model_dir}: transformers cannot load it: {reason}") from error
    missing = sorted(found["missing_keys"])
    if missing:  # transformers would go on with random numbers in their place
        raise ModelInvalid(
            f"{model_dir}: the weights lack {len(missing)} tensors (first: {missing[0]}); download the model again"
        )
    _untie(model, model_dir)
    return _quantized(model.eval()) if dtype == "int8" else model.eval()


def _untie(model: Any, model_dir: Path) -> None:
    """Follow config.json where it states an own head and transformers 5 forgets it: umT5's outputs are not scaled then,
    and a head that the files lack is not the embeddings. Raises ModelInvalid."""
    if model_kind(model_dir).is_decoder or read_config(model_dir).get("tie_word_embeddings") is not False:
        return
    if model.config.model_type == "umt5":
        model.config.tie_word_embeddings = False
    if model.lm_head.weight is model.shared.weight:
        raise ModelInvalid(lost_head(model_dir))


def _quantized(model: Any) -> Any:
    """Every Linear with int8 weights (per tensor) and activations quantized on the fly, by torch's own tool."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, in two ways, since torch 2.10; there through 2.13
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
