"""Stage 3: a plan becomes a schedule: shards, jobs in order, and the memory they take at worst."""
