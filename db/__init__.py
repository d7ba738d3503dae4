"""The catalogue in SQL: tables, every query, and the sessions to run them in. Imports nothing of ours."""
