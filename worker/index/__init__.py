"""The index: generations that are built, verified and swapped, and the changes laid over them."""
