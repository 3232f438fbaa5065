"""The backend `openai` and its embedder: any server with OpenAI's HTTP interface, local or hosted."""
