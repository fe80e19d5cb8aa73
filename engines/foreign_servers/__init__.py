"""Model servers of other projects: DJL Serving and Multi Model Server around our handlers, llama.cpp's on a file."""
