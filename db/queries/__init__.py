"""Every query, one module per noun. Each takes the session first."""
