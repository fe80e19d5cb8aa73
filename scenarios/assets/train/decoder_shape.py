"""The bundled decoder's shape: Llama's form at 3.1 M parameters, and how it goes to disk and comes back."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

SHAPE: dict[str, Any] = {
    "hidden_size": 256,  # a multiple of 256, so that llama.cpp's k-quants apply
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 3,
}
ROPE_BASE = 10_000.0
MAX_NEW_TOKENS = 96  # references reach about 75 tokens


def fresh_model(vocab_size: int, seed: int) -> LlamaForCausalLM:
    """A randomly initialised model; the head and what writes into the residual stream start at or near nought."""
    torch.manual_seed(seed)
    rope = {"rope_type": "default", "rope_theta": ROPE_BASE}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, rope_parameters=rope, **SHAPE))
    for name, parameter in model.named_parameters():
        if "embed_tokens" in name:
            torch.nn.init.normal_(parameter, std=1.0)
        elif "lm_head" in name:
            torch.nn.init.zeros_(parameter)
        elif parameter.dim() == 2:
            narrow = 0.25 if "o_proj" in name or "down_proj" in name else 1.0
            torch.nn.init.normal_(parameter, std=narrow * parameter.shape[1] ** -0.5)
    return model


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors; the weights replace older ones in one move."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.config.vocab_size,
        **SHAPE,
        "rope_theta": ROPE_BASE,  # where readers of transformers 4's files look
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_BASE},
        "dtype": "float32",
        "torch_dtype": "float32",
        "transformers_version": model.config.transformers_version or "5.23.0",
        "use_cache": True,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    generation = {"bos_token_id": 3, "eos_token_id": 1, "max_new_tokens": MAX_NEW_TOKENS, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    partial = folder / "model.safetensors.partial"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, partial, metadata={"format": "pt"})
    partial.replace(folder / "model.safetensors")


def load_model(folder: Path) -> LlamaForCausalLM:
    """The model of a folder, in evaluation mode; raises ValueError if its head came back tied."""
    model = LlamaForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    if torch.equal(model.lm_head.weight, model.model.embed_tokens.weight):
        raise ValueError(f"{folder}: expected an untied head; retrain or restore model.safetensors")
    return model
