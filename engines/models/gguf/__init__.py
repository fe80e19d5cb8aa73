"""GGUF, llama.cpp's file format: a file read as a model folder, and written from one."""
