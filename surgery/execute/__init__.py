"""Stage 4: a schedule becomes shards: read-ahead, compute, write-behind, resume, publish."""
