"""How much dialogues differ from one another."""
