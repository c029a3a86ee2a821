"""The Hugging Face Hub: models read from it by range or through the cache, results uploaded while they are made."""
