"""What a run leaves behind: the report as JSON and as a page, model card, lockfile."""
