"""The mathematics of flow models: torch only."""
