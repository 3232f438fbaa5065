"""The backend `ollama` and its embedder: models on a local Ollama server, over its HTTP interface."""
