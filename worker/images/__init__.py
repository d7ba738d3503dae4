"""Pictures: fetched within bounds, decoded in children that can be killed."""
