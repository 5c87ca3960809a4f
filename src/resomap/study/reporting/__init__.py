"""A study as a page, a summary and figures, from what its stages stored."""
