"""What several test files use: kinds of arrays, stand-ins for faiss and for a GPU, small pipelines and pictures."""
