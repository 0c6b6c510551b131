"""The state: who is in each audience since when, and what each destination was told."""
