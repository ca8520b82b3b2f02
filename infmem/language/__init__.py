"""Language models from scratch: rows of documents, training on them, perplexity by position, and the experiment."""
