"""llama.cpp's server: its options, its arguments, its start, and a comparison of its tokenizer with the model's."""
