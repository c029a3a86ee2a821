"""Recipes with holes: their space, the loop that asks and tells, candidates in memory, the journal, the winner."""
