"""The cache of CTranslate2 models converted from Hugging Face folders.

CTranslate2 works on token strings. The converted vocabulary is the decimal token ids themselves ("0", "1", ...), so no
tokenizer takes part and nothing can be lost between two spellings of one token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engines.environments.packages import package_availability
from engines.errors import ModelInvalid, Unavailable
from engines.models import hugging_face
from engines.models.cache import build_once, carried, check_unchanged, model_digest
from engines.models.checkpoint.kind import model_kind
from engines.models.checkpoint.special_ids import SpecialIds, special_ids
from engines.processes.call_in_child import answer_call, call_in_child

CONVERSION = 3
"""Part of the cache key: raise it when `convert` changes what it writes."""

CARRIED = "ct2"
"""The folder inside a model folder that may carry its conversion along, with what `form` gives in its cache.FORM file.
"""

_CONVERTER_PACKAGES = ("torch", "transformers")


def form(compute_type: str) -> str:
    """What distinguishes one conversion from others of the same model."""
    return f"{compute_type}-v{CONVERSION}"


def converted(model_dir: Path, compute_type: str, cache: Path) -> Path:
    """The cached CTranslate2 folder of a Hugging Face folder. Raises ModelInvalid, Unavailable."""
    if found := carried(model_dir / CARRIED, form(compute_type)):
        return found
    import ctranslate2

    digest = model_digest(model_dir)
    name = f"{digest}-{compute_type}-ct{ctranslate2.__version__}-v{CONVERSION}"

    def build(folder: Path) -> None:
        available = package_availability(_CONVERTER_PACKAGES, "ctranslate2")
        if not available.is_available:
            raise Unavailable(f"ctranslate2 must convert {model_dir} first: {available.reason}")
        call_in_child(
            "engines.models.conversion.ctranslate2_cache", "convert", [str(model_dir), compute_type, str(folder)]
        )
        check_unchanged(model_dir, digest)

    return build_once(cache / "ctranslate2" / name, build)


def convert(model_dir_text: str, compute_type: str, folder: str) -> None:
    """Write CTranslate2's form of the model to `folder`. Needs torch and transformers; serving does not."""
    model_dir = Path(model_dir_text)
    attention = hugging_face.default_attention(model_dir)
    model = hugging_face.load_model(model_dir, "fp32", attention)
    try:
        spec = _spec(model_dir, model)
        spec.validate()
        spec.optimize(quantization=compute_type)
        spec.save(folder)
    except ModelInvalid as error:
        raise ModelInvalid(f"{model_dir}: {error}") from error
    except (ValueError, KeyError, NotImplementedError, AttributeError, TypeError) as error:
        raise ModelInvalid(f"{model_dir}: CTranslate2 cannot convert it: {error}") from error


def _spec(model_dir: Path, model: Any) -> Any:
    if model_kind(model_dir).is_decoder:
        from engines.models.conversion.ctranslate2_decoders import decoder_spec

        return decoder_spec(model)
    from ctranslate2.converters import transformers as converters

    parents = {"t5": converters.T5Loader, "mt5": converters.MT5Loader, "umt5": converters.UMT5Loader}
    return _loader(parents[model_kind(model_dir).model_type], special_ids(model_dir))(model, None)


def _loader(parent: Any, special: SpecialIds) -> Any:
    class IdVocabularyLoader(parent):  # type: ignore[misc]
        """CTranslate2's own loader with the output scaling corrected and the ids as vocabulary."""

        def get_model_spec(self, model: Any) -> Any:
            model.config.tie_word_embeddings = hugging_face.scales_outputs(model)  # what CTranslate2 asks for scaling
            return super().get_model_spec(model)

        def get_vocabulary(self, model: Any, tokenizer: object) -> list[str]:
            return [str(token) for token in range(model.config.vocab_size)]

        def set_config(self, config: Any, model: Any, tokenizer: object) -> None:
            # CTranslate2 gives no answer to a source of nothing but its begin or end token, as invisible text is. Ends
            # are named in every call and the start is its own field, so that these may be the last row, which no text
            # consists of.
            config.bos_token = config.eos_token = config.unk_token = str(model.config.vocab_size - 1)
            config.decoder_start_token = str(special.start)

    return IdVocabularyLoader()


if __name__ == "__main__":
    answer_call(convert)
