"""Language models to search with: in this process, on a Dendrite server, on any OpenAI endpoint."""
