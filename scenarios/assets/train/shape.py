"""The bundled model's shape: FLAN-T5's form at 3.8 M parameters, and how it goes to disk and comes back.

FLAN's head is its own matrix and its logits are not scaled by E^-0.5. transformers 5 takes `tie_word_embeddings: false`
for "do not scale" and ties the head anyway unless the checkpoint holds two different matrices; transformers 4 takes it
for "do not tie" and "do not scale". config.json therefore says both `tie_word_embeddings: false` and
`scale_decoder_outputs: false`, and the weights file always holds `shared.weight` and `lm_head.weight`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import T5Config, T5ForConditionalGeneration

SHAPE: dict[str, Any] = {
    "d_model": 192,
    "d_kv": 64,
    "d_ff": 512,
    "num_layers": 3,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,  # the data is endless, so there is nothing to regularise
    "initializer_factor": 0.2,  # T5's own 1.0 learns several times slower under AdamW at this size
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "tie_word_embeddings": False,
}
INHERITED = (  # what T5Config writes of every model's options, all at their defaults
    *("_name_or_path", "chunk_size_feed_forward", "id2label", "label2id", "output_attentions", "output_hidden_states"),
    *("problem_type", "return_dict"),
)
POSITION_BIAS_STD = 0.7
MAX_NEW_TOKENS = 96  # references reach about 75 tokens


def fresh_model(vocab_size: int, seed: int) -> T5ForConditionalGeneration:
    """A randomly initialised model with a head of its own."""
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(T5Config(vocab_size=vocab_size, **SHAPE))
    head = torch.empty(vocab_size, SHAPE["d_model"]).normal_(std=SHAPE["d_model"] ** -0.5)
    model.lm_head.weight = torch.nn.Parameter(head)
    for name, parameter in model.named_parameters():
        if "layer_norm" in name:  # the factor is for matrices; transformers applies it to the norms too
            torch.nn.init.ones_(parameter)
        if "relative_attention_bias" in name:  # large enough that heads start out looking at different places
            torch.nn.init.normal_(parameter, std=POSITION_BIAS_STD)
    return model


def save_model(model: T5ForConditionalGeneration, folder: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors; the weights replace older ones in one move."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config.to_dict()
    config |= {"architectures": ["T5ForConditionalGeneration"], "dtype": "float32", "torch_dtype": "float32"}
    config |= {"tie_word_embeddings": False, "scale_decoder_outputs": False}
    config = {name: value for name, value in config.items() if name not in INHERITED}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    generation = {"decoder_start_token_id": 0, "eos_token_id": 1, "max_new_tokens": MAX_NEW_TOKENS, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # the same matrix as shared.weight
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in copies}
    partial = folder / "model.safetensors.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(folder / "model.safetensors")


def load_model(folder: Path) -> T5ForConditionalGeneration:
    """The model of a folder, in evaluation mode; raises ValueError if its head came back tied or scaled."""
    model = T5ForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval()
    if model.config.scale_decoder_outputs or torch.equal(model.lm_head.weight, model.shared.weight):
        raise ValueError(f"{folder}: expected an untied, unscaled head; retrain or restore model.safetensors")
    return model
