"""Recipes with holes: spaces, the loop that asks and tells, evaluators, the journal."""
