"""Where the models of a study look: maps, and tests of maps that need the model again."""
