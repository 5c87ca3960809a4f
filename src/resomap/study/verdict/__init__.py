"""What a study says: the recommendation, what it rests on, what weakens it."""
